#pragma once

// Attention of a tile of rows, side by side in vector lanes, over spans of blocks and f16 rows: the one algorithm of
// all CPU levels, compiled by each with its own `lanes`. Everything here has internal linkage and calls no library
// templates, so that no other file is given code of this one's instruction set.
//
// A tile of 32 tokens at a time: codes are unpacked to bytes once for all rows; scores are integer dot products of
// codes with the query, whose channels were multiplied by the key scales and rounded to 8 bits per 32 channels; then
// the running softmax; then its weights, multiplied by the value scales and rounded to 8 bits per tile, against the
// value codes. What rounding a query or weight to 8 bits loses is small beside what 2 to 5 bits lost before; for 8-bit
// codes both are rounded to 16 bits.

#include "kernels/cpu/row_products.h"

namespace livekv {
namespace {

// One item: the queries, the running state, and the tiles they go over.
class row_attention {
  public:
    row_attention(const attention_args & args, const attention_item & item, void * memory, const softmax_state & state)
        : args_(args), item_(item), s_(memory, args.head_dim), state_(state), d_(args.head_dim) {}

    void run() {
        load_queries();
        for (int32_t i = 0; i < n_rows_tile; ++i) {
            state_.m[i] = hidden_score;
            state_.l[i] = 0.0f;
            s_.v_offset[i] = 0.0f;
        }
        for (int32_t i = 0; i < d_ * n_rows_tile; ++i) {
            state_.o[i] = 0.0f;
        }
        int64_t left = item_.n_tiles;
        int32_t tile = item_.first_tile;
        for (int64_t i = item_.first_segment; left > 0; ++i, tile = 0) {
            const int32_t n_tiles = kv_ceil_div(args_.segments[i].n_tokens, tile_tokens);
            for (folded_group_ = -1; tile < n_tiles && left > 0; ++tile, --left) {
                one_tile(args_.segments[i], tile, i + 1 == args_.n_segments);
            }
        }
        for (int32_t v = 0; v < n_vec; ++v) {
            const f32 offset = lanes::load(s_.v_offset + v * lanes::n);
            for (int32_t c = 0; c < d_; ++c) {
                float * at = state_.o + c * n_rows_tile + v * lanes::n;
                lanes::store(at, lanes::add(lanes::load(at), offset));
            }
        }
        rotate_rows(state_.o, d_, args_.v_rotation, n_rows_tile);
    }

  private:
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

    const float * query(int32_t r) const {
        const int64_t row = item_.first_row + r;
        const int64_t token = row / args_.group();
        const int64_t head = item_.head * args_.group() + row % args_.group();
        return args_.q + (token * args_.n_head + head) * d_;
    }

    void one_tile(const kv_segment & segment, int32_t tile, bool last) {
        const int32_t first = tile * tile_tokens;
        const int32_t n = segment.n_tokens - first < tile_tokens ? segment.n_tokens - first : tile_tokens;
        if (segment.k_blocks) {
            const block_reader block(segment.k_blocks + static_cast<size_t>(item_.head) * segment.k_block_bytes);
            block_scores(block, tile);
        } else {
            for (int32_t i = 0; i < n * n_rows_tile; ++i) {
                s_.scores[i] = 0.0f;
            }
            load_rows(segment.k_rows, first, n);
            multiply_add(s_.rows, static_cast<size_t>(d_), 1, n, d_, s_.q, s_.scores);
        }
        if (segment.n_skip > first) {
            hide(0, segment.n_skip - first < n ? segment.n_skip - first : n);
        }
        if (last) {
            hide_future(segment.n_tokens, first, n);
        }
        hide(n, tile_tokens);
        softmax_step(n);
        if (segment.v_blocks) {
            const block_reader block(segment.v_blocks + static_cast<size_t>(item_.head) * segment.v_block_bytes);
            block_values(block, tile, n);
        } else {
            load_rows(segment.v_rows, first, n);
            multiply_add(s_.rows, 1, static_cast<size_t>(d_), d_, n, s_.scores, state_.o);
        }
    }

    void load_rows(const uint16_t * from, int32_t first, int32_t n) {
        const size_t stride = static_cast<size_t>(args_.n_head_kv) * static_cast<size_t>(d_);
        for (int32_t t = 0; t < n; ++t) {
            lanes::to_f32(from + static_cast<size_t>(first + t) * stride + static_cast<size_t>(item_.head * d_),
                          s_.rows + t * d_, static_cast<size_t>(d_));
        }
    }

    void hide(int32_t from, int32_t to) {
        for (int32_t i = from * n_rows_tile; i < to * n_rows_tile; ++i) {
            s_.scores[i] = 2.0f * hidden_score;
        }
    }

    // In the last segment, which ends with the new tokens, a row sees what is not after its own token.
    void hide_future(int32_t n_segment, int32_t first, int32_t n) {
        const int64_t new_from = static_cast<int64_t>(n_segment) - args_.n_tokens;  // the first new token's place
        for (int32_t r = 0; r < item_.n_rows; ++r) {
            const int64_t own = new_from + (item_.first_row + r) / args_.group();
            for (int64_t t = own + 1 > first ? own + 1 - first : 0; t < n; ++t) {
                s_.scores[t * n_rows_tile + r] = 2.0f * hidden_score;
            }
        }
    }

    // scores = q . k over one tile of a block.
    void block_scores(const block_reader & block, int32_t tile) {
        const int32_t group = tile * tile_tokens / block.group();
        if (group != folded_group_) {
            fold(block, group);
            folded_group_ = group;
        }
        for (int32_t t = 0; t < tile_tokens; ++t) {
            for (int32_t v = 0; v < n_vec; ++v) {
                lanes::store(s_.scores + t * n_rows_tile + v * lanes::n, lanes::load(s_.offset + v * lanes::n));
            }
        }
        const int32_t n_quads = d_ / 4;
        const int32_t quads_at_once = block.bits() == 5 ? 4 : 8;
        const int32_t n_sixteens = block.key_sixteens(tile);
        for (int32_t plane = 0; plane < block.n_planes(); ++plane) {
            lanes::unpack(block.key_bricks(tile), static_cast<size_t>(n_sixteens * n_quads), block.bits(), plane, 0,
                          s_.codes);
            for (int32_t half = 0; half < n_sixteens; ++half) {
                for (int32_t quad = 0; quad < n_quads; quad += quads_at_once) {
                    const int32_t n = n_quads - quad < quads_at_once ? n_quads - quad : quads_at_once;
                    for (int32_t part = 0; part < block.n_planes(); ++part) {
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
        const block_reader::key_outliers apart = block.key_outliers_of(tile);
        lanes::to_f32(apart.values, s_.rows, static_cast<size_t>(apart.n));
        for (int32_t i = 0; i < apart.n; ++i) {
            add_outlier(s_.scores + (apart.places[i] >> 11) * n_rows_tile,
                        s_.q + (apart.places[i] & 0x7ff) * n_rows_tile, s_.rows[i]);
        }
    }

    static void add_outlier(float * to, const float * from, float value) {
        for (int32_t v = 0; v < n_vec; ++v) {
            lanes::store(to + v * lanes::n, lanes::fma(lanes::set(value), lanes::load(from + v * lanes::n),
                                                       lanes::load(to + v * lanes::n)));
        }
    }

    // Multiplies a key group's scales into the queries and rounds the products; what the middle of each channel's grid
    // contributes is the same for all tokens of the group and is summed exactly.
    void fold(const block_reader & block, int32_t group) {
        const int8_t * centres = block.key_centres(group);
        lanes::to_f32(block.key_scales(group), s_.scales, static_cast<size_t>(d_));
        const f32 mid = lanes::set(static_cast<float>(1 << (block.bits() - 1)));
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
                        if (block.n_planes() == 2) {
                            rest[i] = lanes::round(lanes::mul(lanes::sub(x, rounded), lanes::set(254.0f)));
                            sum = lanes::fma(lanes::to_float(rest[i]), lanes::set(1.0f / 254.0f), sum);
                        }
                    }
                    lanes::store_bytes(s_.q8[0] + (c / 4 * n_rows_tile + v * lanes::n) * 4, whole[0], whole[1],
                                       whole[2], whole[3]);
                    if (block.n_planes() == 2) {
                        lanes::store_bytes(s_.q8[1] + (c / 4 * n_rows_tile + v * lanes::n) * 4, rest[0], rest[1],
                                           rest[2], rest[3]);
                    }
                }
                offset = lanes::sub(offset, lanes::mul(mid, lanes::mul(step, sum)));
            }
            lanes::store(s_.offset + v * lanes::n, offset);
        }
    }

    // Scores become weights relative to the new largest score; what was summed before is brought to it.
    void softmax_step(int32_t n) {
        for (int32_t v = 0; v < n_vec; ++v) {
            float * column = s_.scores + v * lanes::n;
            const f32 before = lanes::load(state_.m + v * lanes::n);
            f32 m = before;
            for (int32_t t = 0; t < n; ++t) {
                m = lanes::max(m, lanes::load(column + t * n_rows_tile));
            }
            f32 l = lanes::load(state_.l + v * lanes::n);
            if (lanes::any_greater(m, before)) {
                const f32 factor = exp2_negative(lanes::sub(before, m));
                l = lanes::mul(l, factor);
                lanes::store(s_.v_offset + v * lanes::n, lanes::mul(lanes::load(s_.v_offset + v * lanes::n), factor));
                for (int32_t c = 0; c < d_; ++c) {
                    float * at = state_.o + c * n_rows_tile + v * lanes::n;
                    lanes::store(at, lanes::mul(lanes::load(at), factor));
                }
                lanes::store(state_.m + v * lanes::n, m);
            }
            for (int32_t t = 0; t < tile_tokens; ++t) {
                const f32 p = exp2_negative(lanes::sub(lanes::load(column + t * n_rows_tile), m));
                l = lanes::add(l, p);
                lanes::store(column + t * n_rows_tile, p);
            }
            lanes::store(state_.l + v * lanes::n, l);
        }
    }

    // o += weights . v over one tile of a block.
    void block_values(const block_reader & block, int32_t tile, int32_t n) {
        const int32_t first = tile * tile_tokens;
        const int32_t n_quads = block.value_quads(tile);
        const int8_t * centres = block.value_centres(first);
        lanes::to_f32(
            block.value_scales(first), s_.scales,
            static_cast<size_t>(block.n_tokens() - first < tile_tokens ? block.n_tokens() - first : tile_tokens));
        f32 step[n_vec];
        for (int32_t v = 0; v < n_vec; ++v) {
            const float * column = s_.scores + v * lanes::n;
            f32 largest = lanes::set(1e-30f);
            f32 offset = lanes::load(s_.v_offset + v * lanes::n);
            for (int32_t t = 0; t < n; ++t) {
                const f32 w = lanes::mul(lanes::load(column + t * n_rows_tile), lanes::set(s_.scales[t]));
                largest = lanes::max(largest, w);
                if (centres) {
                    offset = lanes::fma(w, lanes::set(static_cast<float>(centres[t])), offset);
                }
            }
            lanes::store(s_.v_offset + v * lanes::n, offset);
            step[v] = lanes::mul(largest, lanes::set(1.0f / 255.0f));
            const f32 inverse = lanes::div(lanes::set(255.0f), largest);
            for (int32_t quad = 0; quad < n_quads; ++quad) {
                lanes::i32 whole[4];
                lanes::i32 rest[4] = {};
                for (int32_t i = 0; i < 4; ++i) {
                    const int32_t t = 4 * quad + i;
                    const f32 scaled = lanes::mul(inverse, lanes::set(t < n ? s_.scales[t] : 0.0f));
                    const f32 x = lanes::mul(lanes::load(column + t * n_rows_tile), scaled);
                    if (block.n_planes() == 2) {  // the whole part rounds down, so that the rest is positive too
                        whole[i] = lanes::round(lanes::max(lanes::sub(x, lanes::set(0.5f)), lanes::set(0.0f)));
                        rest[i] = lanes::round(lanes::min(
                            lanes::mul(lanes::max(lanes::sub(x, lanes::to_float(whole[i])), lanes::set(0.0f)),
                                       lanes::set(255.0f)),
                            lanes::set(255.0f)));
                    } else {
                        whole[i] = lanes::round(x);
                    }
                }
                lanes::store_bytes(s_.p8[0] + (quad * n_rows_tile + v * lanes::n) * 4, whole[0], whole[1], whole[2],
                                   whole[3]);
                if (block.n_planes() == 2) {
                    lanes::store_bytes(s_.p8[1] + (quad * n_rows_tile + v * lanes::n) * 4, rest[0], rest[1], rest[2],
                                       rest[3]);
                }
            }
        }
        const int32_t quads_at_once = block.bits() == 5 || block.bits() == 8 ? 4 : 8;
        const int32_t n_sixteens = kv_ceil_div(d_, 16);
        for (int32_t plane = 0; plane < block.n_planes(); ++plane) {
            const int32_t bias = block.n_planes() == 1 ? 1 << (block.bits() - 1) : plane == 0 ? 0 : 8;
            lanes::unpack(block.value_bricks(tile), static_cast<size_t>(n_sixteens * n_quads), block.bits(), plane,
                          bias, s_.codes);
            for (int32_t sixteen = 0; sixteen < n_sixteens; ++sixteen) {
                const int32_t n_channels = d_ - sixteen * 16 < 16 ? d_ - sixteen * 16 : 16;
                for (int32_t quad = 0; quad < n_quads; quad += quads_at_once) {
                    const int32_t n_now = n_quads - quad < quads_at_once ? n_quads - quad : quads_at_once;
                    for (int32_t part = 0; part < block.n_planes(); ++part) {
                        const f32 factor = lanes::set((plane == 0 ? 1.0f : 16.0f) * (part == 0 ? 1.0f : 1.0f / 255.0f));
                        const f32 scaled[n_vec] = {lanes::mul(step[0], factor), lanes::mul(step[1], factor)};
                        multiply_add_bytes<true>(s_.codes + (sixteen * n_quads + quad) * 64, 64, n_channels, n_now,
                                                 s_.p8[part] + quad * 4 * n_rows_tile, scaled,
                                                 state_.o + sixteen * 16 * n_rows_tile);
                    }
                }
            }
        }
        const int32_t n_apart = n * block.n_outliers();
        const uint8_t * const channels = block.value_channels(first);
        lanes::to_f32(block.value_outliers(first), s_.rows, static_cast<size_t>(n_apart));
        for (int32_t i = 0; i < n_apart; ++i) {
            add_outlier(state_.o + block.channel(channels, i) * n_rows_tile,
                        s_.scores + i / block.n_outliers() * n_rows_tile, s_.rows[i]);
        }
    }

    const attention_args & args_;
    const attention_item & item_;
    scratch_map s_;
    softmax_state state_;
    int32_t d_;
    int32_t folded_group_ = -1;  // of the segment at hand, whose scales are in q8, step and offset
};

inline bool store_row(const float * from, uint16_t * to, size_t n, int32_t head_dim, int32_t rotation) {
    if (rotation < 2) {
        return lanes::to_f16(from, to, n);
    }
    bool finite = true;
    float head[kv_max_head_dim];
    const size_t d = static_cast<size_t>(head_dim);
    for (size_t at = 0; at < n; at += d) {
        __builtin_memcpy(head, from + at, d * sizeof(float));
        rotate_rows(head, head_dim, rotation, 1);
        finite &= lanes::to_f16(head, to + at, d);
    }
    return finite;
}

}  // namespace
}  // namespace livekv
