#pragma once

// Scores of rows side by side over one tile of keys after the other (attention_rows.h). Internal linkage.

#include "kernels/cpu/row_classes.h"

namespace livekv {
namespace {

class row_keys {
  public:
    row_keys(const attention_args & args, const attention_item & item, const scratch_map & scratch)
        : args_(args), item_(item), s_(scratch), d_(args.head_dim) {}

    // Queries are bounded, NaN becomes the bound: whatever the model computed, sums here stay finite.
    void load_queries() {
        const float scale = args_.scale * log2_e;
        for (int32_t c = 0; c < d_ * n_rows_tile; ++c) {
            s_.q[c] = 0.0f;
        }
        for (int32_t r = 0; r < item_.n_rows; ++r) {
            const float * from = query(r);
            for (int32_t c = 0; c < d_; ++c) {
                const float x = from[c] * scale;
                s_.q[c * n_rows_tile + r] =
                    x > -largest_query ? (x < largest_query ? x : largest_query) : -largest_query;
            }
        }
        rotate_rows(s_.q, d_, args_.k_rotation, n_rows_tile);
    }

    // scores of the n tokens of a segment's tile; others are left as they come.
    void take_scores(int64_t i_segment, int32_t tile, int32_t n) {
        const kv_segment & segment = args_.segments[i_segment];
        if (segment.k_blocks && i_segment != segment_) {
            segment_ = i_segment;
            block_ = block_reader(segment.k_blocks + static_cast<size_t>(item_.head) * segment.k_block_bytes);
            folded_group_ = -1;
        }
        if (segment.k_blocks && !block_.in_floats()) {
            return block_scores(tile);
        }
        for (int32_t i = 0; i < n * n_rows_tile; ++i) {
            s_.scores[i] = 0.0f;
        }
        if (!segment.k_blocks) {
            load_rows(args_, item_.head, segment.k_rows, tile * tile_tokens, n, s_);
            if (!args_.turns) {
                return multiply_add(s_.rows, static_cast<size_t>(d_), 1, n, d_, s_.q, s_.scores);
            }
            columns_of_rows(s_.rows, static_cast<size_t>(d_), d_, s_.channels);
        } else if (!block_.has_channels()) {
            float_rows(block_, kv_side::key, tile, d_, s_.channels, s_.rows, static_cast<size_t>(d_));
            if (!args_.turns) {
                return multiply_add(s_.rows, static_cast<size_t>(d_), 1, n, d_, s_.q, s_.scores);
            }
            columns_of_rows(s_.rows, static_cast<size_t>(d_), d_, s_.channels);
        } else {
            channel_columns(block_, tile, d_, s_.channels);
        }
        if (args_.turns) {
            turn_columns(*args_.turns, segment.first + tile * tile_tokens, s_.channels);
        }
        multiply_add(s_.channels.x, 1, tile_tokens, n, d_, s_.q, s_.scores);
    }

  private:
    const float * query(int32_t r) const {
        const int64_t row = item_.first_row + r;
        const int64_t token = row / args_.group();
        const int64_t head = item_.head * args_.group() + row % args_.group();
        return args_.q + (token * args_.n_head + head) * d_;
    }

    // scores = q . k over one tile of a block.
    void block_scores(int32_t tile) {
        const int32_t group = tile * tile_tokens / block_.group();
        if (group != folded_group_) {
            if (block_.has_classes()) {
                fold_classes(block_, group, d_, s_);
            } else {
                fold(group);
            }
            folded_group_ = group;
        }
        for (int32_t t = 0; t < tile_tokens; ++t) {
            for (int32_t v = 0; v < n_vec; ++v) {
                lanes::store(s_.scores + t * n_rows_tile + v * lanes::n, lanes::load(s_.offset + v * lanes::n));
            }
        }
        if (block_.has_classes()) {
            return add_class_scores(block_, tile, d_, s_);
        }
        const int32_t n_quads = d_ / 4;
        const int32_t quads_at_once = block_.bits() == 5 ? 4 : 8;
        const int32_t n_sixteens = block_.key_sixteens(tile);
        for (int32_t plane = 0; plane < block_.n_planes(); ++plane) {
            lanes::unpack(block_.key_bricks(tile), static_cast<size_t>(n_sixteens * n_quads), block_.bits(), plane, 0,
                          s_.codes);
            for (int32_t half = 0; half < n_sixteens; ++half) {
                for (int32_t quad = 0; quad < n_quads; quad += quads_at_once) {
                    const int32_t n = n_quads - quad < quads_at_once ? n_quads - quad : quads_at_once;
                    for (int32_t part = 0; part < block_.n_planes(); ++part) {
                        const f32 factor = lanes::set((plane == 0 ? 1.0f : 16.0f) * (part == 0 ? 1.0f : 1.0f / 254.0f));
                        f32 step[n_vec];
                        for (int32_t v = 0; v < n_vec; ++v) {
                            step[v] = lanes::mul(lanes::load(s_.step + quad / 8 * n_rows_tile + v * lanes::n), factor);
                        }
                        multiply_add_bytes<false>(s_.codes + (half * n_quads + quad) * 64, 64, 16, n,
                                                  s_.q8[part] + quad * 4 * n_rows_tile, step,
                                                  s_.scores + half * 16 * n_rows_tile);
                    }
                }
            }
        }
        const block_reader::key_outliers apart = block_.key_outliers_of(tile);
        lanes::to_f32(apart.values, s_.rows, static_cast<size_t>(apart.n));
        for (int32_t i = 0; i < apart.n; ++i) {
            add_outlier(s_.scores + (apart.places[i] >> 11) * n_rows_tile,
                        s_.q + (apart.places[i] & 0x7ff) * n_rows_tile, s_.rows[i]);
        }
    }

    // Multiplies a key group's scales into the queries and rounds the products; what the middle of each channel's grid
    // contributes is the same for all tokens of the group and is summed exactly.
    void fold(int32_t group) {
        const int8_t * centres = block_.key_centres(group);
        lanes::to_f32(block_.key_scales(group), s_.scales, static_cast<size_t>(d_));
        const f32 mid = lanes::set(static_cast<float>(1 << (block_.bits() - 1)));
        for (int32_t v = 0; v < n_vec; ++v) {
            f32 offset = lanes::set(0.0f);
            for (int32_t first = 0; first < d_; first += 32) {
                const int32_t last = first + 32 < d_ ? first + 32 : d_;
                f32 largest = lanes::set(1e-30f);
                for (int32_t c = first; c < last; ++c) {
                    const f32 x =
                        lanes::mul(lanes::load(s_.q + c * n_rows_tile + v * lanes::n), lanes::set(s_.scales[c]));
                    largest = lanes::max(largest, lanes::abs(x));
                    if (centres) {
                        offset = lanes::fma(x, lanes::set(static_cast<float>(centres[c])), offset);
                    }
                }
                const f32 inverse = lanes::div(lanes::set(127.0f), largest);
                const f32 step = lanes::mul(largest, lanes::set(1.0f / 127.0f));
                lanes::store(s_.step + first / 32 * n_rows_tile + v * lanes::n, step);
                f32 sum = lanes::set(0.0f);
                for (int32_t c = first; c < last; c += 4) {
                    lanes::i32 whole[4];
                    lanes::i32 rest[4] = {};
                    for (int32_t i = 0; i < 4; ++i) {
                        const f32 scaled = lanes::mul(inverse, lanes::set(s_.scales[c + i]));
                        const f32 x = lanes::mul(lanes::load(s_.q + (c + i) * n_rows_tile + v * lanes::n), scaled);
                        whole[i] = lanes::round(x);
                        const f32 rounded = lanes::to_float(whole[i]);
                        sum = lanes::add(sum, rounded);
                        if (block_.n_planes() == 2) {
                            rest[i] = lanes::round(lanes::mul(lanes::sub(x, rounded), lanes::set(254.0f)));
                            sum = lanes::fma(lanes::to_float(rest[i]), lanes::set(1.0f / 254.0f), sum);
                        }
                    }
                    lanes::store_bytes(s_.q8[0] + (c / 4 * n_rows_tile + v * lanes::n) * 4, whole[0], whole[1],
                                       whole[2], whole[3]);
                    if (block_.n_planes() == 2) {
                        lanes::store_bytes(s_.q8[1] + (c / 4 * n_rows_tile + v * lanes::n) * 4, rest[0], rest[1],
                                           rest[2], rest[3]);
                    }
                }
                offset = lanes::sub(offset, lanes::mul(mid, lanes::mul(step, sum)));
            }
            lanes::store(s_.offset + v * lanes::n, offset);
        }
    }

    const attention_args & args_;
    const attention_item & item_;
    const scratch_map & s_;
    int32_t d_;
    int64_t segment_ = -1;  // whose block is read
    block_reader block_;
    int32_t folded_group_ = -1;  // of the block, whose scales are in q8, step and offset
};

}  // namespace
}  // namespace livekv
