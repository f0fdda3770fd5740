#pragma once

// Scores of a few rows over one tile of keys after the other (attention_step.h). Internal linkage.

#include "kernels/cpu/step_classes.h"
#include "kernels/cpu/step_rows.h"

namespace livekv {
namespace {

class step_keys {
  public:
    step_keys(const attention_args & args, const attention_item & item, const step_scratch & scratch)
        : args_(args), item_(item), s_(scratch), d_(args.head_dim), block_(args, item.head, kv_side::key) {}

    // Bounded as in row_keys.h.
    void load_queries() {
        const float scale = args_.scale * log2_e;
        clear(s_.q, step_rows * s_.d32);
        for (int32_t r = 0; r < item_.n_rows; ++r) {
            float * const q = s_.row(s_.q, r);
            const int64_t row = item_.first_row + r;
            const int64_t head = item_.head * args_.group() + row % args_.group();
            const float * const from = args_.q + (row / args_.group() * args_.n_head + head) * d_;
            for (int32_t c = 0; c < d_; ++c) {
                const float x = from[c] * scale;
                q[c] = x > -largest_query ? (x < largest_query ? x : largest_query) : -largest_query;
            }
        }
        const int32_t stride = static_cast<int32_t>(s_.d32);
        for (int32_t row = 0; row < item_.n_rows; row += 4) {
            float * const q = s_.row(s_.q, row);
            float * const q_of = s_.beside(s_.q_of, row);
            for (int32_t c = 0; c < d_; c += 4) {
                lanes::transpose_4(q + c, stride, q_of + 4 * c, 4);
            }
            rotate_rows(q_of, d_, args_.k_rotation, 4);
            for (int32_t c = 0; c < d_; c += 4) {
                lanes::transpose_4(q_of + 4 * c, 4, q + c, stride);
            }
        }
    }

    // scores [step_rows, tile_tokens] of the n tokens of a segment's tile; others are left as they come.
    void take_scores(int64_t i_segment, int32_t tile, int32_t n, float * scores) {
        const kv_segment & segment = args_.segments[i_segment];
        if (!segment.k_blocks) {
            load_rows(args_, item_.head, segment.k_rows, tile, n, s_);
            if (args_.turns) {
                columns_of_rows(s_.rows, s_.d32, d_, s_.channels);
                return scores_of_columns(segment.first + tile * tile_tokens, scores);
            }
            each_few_rows(item_.n_rows, [&]<int32_t n_rows>(int32_t row) { row_scores<n_rows>(s_, row, n, scores); });
            return;
        }
        if (block_.enter(i_segment)) {
            folded_group_ = -1;
            if (block_->has_classes()) {
                enter_classes(*block_, d_, item_.n_rows, s_);
            }
        }
        block_.fetch_next_head(tile);
        if (block_->has_classes()) {
            return scores_of_classes(tile, scores);
        }
        if (block_->in_floats()) {
            if (block_->has_channels()) {
                channel_columns(*block_, tile, d_, s_.channels);
            } else {
                float_rows(*block_, kv_side::key, tile, d_, s_.channels, s_.rows, s_.d32);
                columns_of_rows(s_.rows, s_.d32, d_, s_.channels);
            }
            return scores_of_columns(segment.first + tile * tile_tokens, scores);
        }
        with_bits(block_->bits(), [&]<int32_t bits>() { block_scores<bits>(tile, scores); });
    }

  private:
    template <int32_t bits>
    void block_scores(int32_t tile, float * scores) {
        const int32_t group = tile * tile_tokens / block_->group();
        if (group != folded_group_) {
            folded_group_ = group;
            fold<bits == 8 ? 2 : 1>(group, static_cast<float>(1 << (bits - 1)));
        }
        const block_reader::key_outliers apart = block_->key_outliers_of(tile);
        if (apart.n > 0) {
            lanes::to_f32_whole(apart.values, s_.rows, static_cast<size_t>(apart.n));
        }
        each_few_rows(item_.n_rows, [&]<int32_t n_rows>(int32_t row) {
            if (apart.n > 0) {  // before the products, which give the stores time to arrive
                clear(s_.s_of, 4 * tile_tokens);
                lanes::sum_at_places_4(s_.rows, apart.places, apart.n, s_.beside(s_.q_of, row), s_.s_of);
            }
            key_products<bits, n_rows>(*block_, tile, d_, s_, row, offset_ + row, apart.n > 0, scores,
                                       block_.bricks_ahead(tile));
        });
    }

    void scores_of_classes(int32_t tile, float * scores) {
        const int32_t group = tile * tile_tokens / block_->group();
        if (group != folded_group_) {
            folded_group_ = group;
            load_class_grids(*block_, group, d_, s_);
            each_few_rows(item_.n_rows, [&]<int32_t n_rows>(int32_t row) {
                block_->n_planes() == 2 ? fold_class_rows<2, n_rows>(s_, row, offset_ + row)
                                        : fold_class_rows<1, n_rows>(s_, row, offset_ + row);
            });
        }
        each_few_rows(item_.n_rows, [&]<int32_t n_rows>(int32_t row) {
            class_scores<n_rows>(*block_, tile, d_, s_, row, offset_ + row, scores, block_.bricks_ahead(tile));
        });
    }

    // Of a tile's keys in columns, turned first where they are kept before RoPE. position: of its first token.
    void scores_of_columns(int64_t position, float * scores) {
        if (args_.turns) {
            turn_columns(*args_.turns, position, s_.channels);
        }
        each_few_rows(item_.n_rows, [&]<int32_t n_rows>(int32_t row) { column_scores<n_rows>(s_, d_, row, scores); });
    }

    // As fold in row_keys.h, a few rows at a time.
    template <int32_t n_planes>
    void fold(int32_t group, float mid) {
        lanes::to_f32(block_->key_scales(group), s_.scales, static_cast<size_t>(d_));
        for (size_t c = static_cast<size_t>(d_); c < s_.d32; ++c) {
            s_.scales[c] = 0.0f;
        }
        const int8_t * const centres = block_->key_centres(group);
        for (size_t c = 0; c < s_.d32; c += lanes::n) {
            lanes::store(s_.centres + c, centres ? lanes::load_i8(centres + c) : lanes::set(0.0f));
        }
        each_few_rows(item_.n_rows, [&]<int32_t n_rows>(int32_t row) { fold_rows<n_planes, n_rows>(row, mid); });
    }

    template <int32_t n_planes, int32_t n_rows>
    void fold_rows(int32_t row, float mid) {
        constexpr size_t n = 32 / lanes::n;
        const size_t d32 = s_.d32;
        f32 offset[4];
        f32 largest[4];
        for (int32_t r = 0; r < 4; ++r) {
            offset[r] = lanes::set(0.0f);
        }
        for (size_t first = 0; first < d32; first += 32) {
            f32 x[n_rows][n];
            for (int32_t r = 0; r < 4; ++r) {
                largest[r] = lanes::set(1e-30f);
            }
            for (size_t i = 0; i < n; ++i) {
                const size_t c = first + i * lanes::n;
                const f32 scales = lanes::load(s_.scales + c);
                const f32 centres = lanes::load(s_.centres + c);
                for (int32_t r = 0; r < n_rows; ++r) {
                    x[r][i] = lanes::mul(lanes::load(s_.row(s_.q, row + r) + c), scales);
                    largest[r] = lanes::max(largest[r], lanes::abs(x[r][i]));
                    offset[r] = lanes::fma(x[r][i], centres, offset[r]);
                }
            }
            float top[4];
            float inverse[4];
            lanes::largest_4(largest, top);
            for (int32_t r = 0; r < 4; ++r) {
                inverse[r] = 127.0f / top[r];
            }
            for (int32_t r = 0; r < n_rows; ++r) {
                const size_t at = static_cast<size_t>(row + r) * d32 + first;
                const float step = top[r] * (1.0f / 127.0f);
                s_.step[at / 32] = step;
                const f32 minus_mid = lanes::set(-mid * step);
                lanes::i32 whole[n];
                lanes::i32 rest[n] = {};
                for (size_t i = 0; i < n; ++i) {
                    const f32 scaled = lanes::mul(x[r][i], lanes::set(inverse[r]));
                    whole[i] = lanes::round(scaled);
                    f32 rounded = lanes::to_float(whole[i]);
                    if (n_planes == 2) {
                        rest[i] = lanes::round(lanes::mul(lanes::sub(scaled, rounded), lanes::set(254.0f)));
                        rounded = lanes::fma(lanes::to_float(rest[i]), lanes::set(1.0f / 254.0f), rounded);
                    }
                    offset[r] = lanes::fma(rounded, minus_mid, offset[r]);
                }
                lanes::store_32_bytes(s_.q8[0] + at, whole);
                if (n_planes == 2) {
                    lanes::store_32_bytes(s_.q8[1] + at, rest);
                }
            }
        }
        lanes::sum_4(offset, offset_ + row);
    }

    const attention_args & args_;
    const attention_item & item_;
    const step_scratch & s_;
    int32_t d_;
    step_block block_;
    int32_t folded_group_ = -1;  // of the block, whose scales are in q8, step and offset
    float offset_[step_rows]{};  // what the middles of the key grids add to every score of the group
};

}  // namespace
}  // namespace livekv
