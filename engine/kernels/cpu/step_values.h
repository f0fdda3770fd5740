#pragma once

// Results of a few rows over one tile of values after the other (attention_step.h). Internal linkage.

#include "kernels/cpu/step_block.h"
#include "kernels/cpu/step_groups.h"
#include "kernels/cpu/step_products.h"
#include "kernels/cpu/step_rows.h"

namespace livekv {
namespace {

class step_values {
  public:
    step_values(const attention_args & args, const attention_item & item, const step_scratch & scratch)
        : args_(args), item_(item), s_(scratch), d_(args.head_dim), block_(args, item.head, kv_side::value) {
        clear(s_.o, step_rows * s_.d32);
        clear(s_.o_of, step_rows * s_.d32);
        for (f32 & x : offset_) {
            x = lanes::set(0.0f);
        }
    }

    // Readies the weights p [step_rows, tile_tokens] of a segment's tile for add().
    void weigh(int64_t i_segment, int32_t tile, const float * p) {
        const kv_segment & segment = args_.segments[i_segment];
        if (!segment.v_blocks) {
            return;
        }
        block_.enter(i_segment);
        block_.fetch_next_head(tile);
        if (block_->in_floats() || block_->has_groups()) {
            return;
        }
        block_->bits() == 8 ? weigh_tile<2>(tile, p) : weigh_tile<1>(tile, p);
    }

    // Adds p . values, over the tile's n tokens; p as in weigh(), which was called last with it.
    void add(int64_t i_segment, int32_t tile, int32_t n, const float * p) {
        const kv_segment & segment = args_.segments[i_segment];
        const bool in_floats = segment.v_blocks && block_->in_floats();
        if (!segment.v_blocks || in_floats) {
            if (in_floats) {
                float_rows(*block_, kv_side::value, tile, d_, s_.channels, s_.rows, s_.d32);
            } else {
                load_rows(args_, item_.head, segment.v_rows, tile, n, s_);
            }
            each_few_rows(item_.n_rows, [&]<int32_t n_rows>(int32_t row) { add_rows<n_rows>(s_, row, n, p); });
            return;
        }
        if (block_->has_groups()) {
            if (!had_groups_) {
                had_groups_ = true;
                clear(s_.o_groups, step_rows * s_.d32 / 32 * lanes::n);
            }
            return add_groups(*block_, tile, d_, s_, item_.n_rows, p, block_.bricks_ahead(tile));
        }
        with_bits(block_->bits(), [&]<int32_t bits>() {
            each_few_rows(item_.n_rows, [&]<int32_t n_rows>(int32_t row) {
                value_products<bits, n_rows>(*block_, tile, 0, kv_ceil_div(d_, 16), s_, row, block_.bricks_ahead(tile));
            });
        });
        if (block_->n_outliers() > 0) {
            add_outliers(tile * tile_tokens, n, p);
        }
    }

    // Row r's results so far, times factor.
    void scale(int32_t r, float factor) {
        const f32 by = lanes::set(factor);
        offset_[r] = lanes::mul(offset_[r], by);
        float * const o = s_.row(s_.o, r);
        for (size_t c = 0; c < s_.d32; c += lanes::n) {
            lanes::store(o + c, lanes::mul(lanes::load(o + c), by));
        }
        if (had_outliers_) {
            float * const o_of = s_.beside(s_.o_of, r);
            for (int32_t c = 0; c < d_; ++c) {
                o_of[4 * c] *= factor;
            }
        }
        if (had_groups_) {
            scale_groups(s_, r, factor);
        }
    }

    // Into the layout spans are joined in: to [head_dim, n_rows_tile]. Ends what can be added.
    void hand_over(float * to) {
        for (int32_t r = 0; r < item_.n_rows; ++r) {
            float * const o = s_.row(s_.o, r);
            const f32 offset = lanes::set(lanes::sum(offset_[r]));
            for (size_t c = 0; c < s_.d32; c += n_pair * lanes::n) {
                f32 v[n_pair] = {lanes::load(o + c), lanes::load(o + c + lanes::n)};
                lanes::reorder(v);
                lanes::store(o + c, lanes::add(v[0], offset));
                lanes::store(o + c + lanes::n, lanes::add(v[1], offset));
            }
            if (had_groups_) {
                hand_over_groups(s_, r);
            }
        }
        for (int32_t row = 0; row < item_.n_rows; row += 4) {
            const float * const o = s_.row(s_.o, row);
            float * const o_of = s_.beside(s_.o_of, row);
            for (int32_t c = 0; c < d_; c += 4) {
                float four[16];
                lanes::transpose_4(o + c, static_cast<int32_t>(s_.d32), four, 4);
                for (int32_t i = 0; i < 16; ++i) {
                    o_of[4 * c + i] += four[i];
                }
            }
            rotate_rows(o_of, d_, args_.v_rotation, 4);
            for (int32_t c = 0; c < d_; ++c) {
                for (int32_t r = 0; r < 4; ++r) {
                    to[c * n_rows_tile + row + r] = o_of[4 * c + r];
                }
            }
        }
    }

  private:
    // The weights times the value scales, rounded; what the middles of the grids contribute is summed exactly.
    template <int32_t n_planes>
    void weigh_tile(int32_t tile, const float * p) {
        const int32_t first = tile * tile_tokens;
        const int32_t n = block_->n_tokens() - first < tile_tokens ? block_->n_tokens() - first : tile_tokens;
        float all[tile_tokens];
        lanes::to_f32_whole(block_->value_scales(first), all, static_cast<size_t>(n));
        for (int32_t t = n; t < tile_tokens; ++t) {
            all[t] = 0.0f;
        }
        f32 scales[n_tile];
        f32 middles[n_tile];
        for (int32_t v = 0; v < n_tile; ++v) {
            scales[v] = lanes::load(all + v * lanes::n);
        }
        if (block_->has_tokens()) {
            float stand_for[tile_tokens] = {};
            block_->token_middles(first, n, all, stand_for, lanes::to_f32);
            for (int32_t v = 0; v < n_tile; ++v) {
                middles[v] = lanes::load(stand_for + v * lanes::n);
            }
            each_few_rows(item_.n_rows, [&]<int32_t n_rows>(int32_t row) {
                weigh_rows<n_planes, n_rows, /*has_minima=*/true>(row, scales, middles, p + row * tile_tokens);
            });
            return;
        }
        const int8_t * const from = block_->value_centres(first);
        for (int32_t v = 0; v < n_tile; ++v) {
            middles[v] = from ? lanes::load_i8(from + v * lanes::n) : lanes::set(0.0f);
        }
        each_few_rows(item_.n_rows, [&]<int32_t n_rows>(int32_t row) {
            weigh_rows<n_planes, n_rows, /*has_minima=*/false>(row, scales, middles, p + row * tile_tokens);
        });
    }

    // middles: of the grids, in steps; where they have minima, what it stands for.
    template <int32_t n_planes, int32_t n_rows, bool has_minima>
    void weigh_rows(int32_t row, const f32 * scales, const f32 * middles, const float * p) {
        f32 w[n_rows][n_tile];
        f32 largest[4];
        for (int32_t r = 0; r < 4; ++r) {
            largest[r] = lanes::set(1e-30f);
        }
        for (int32_t r = 0; r < n_rows; ++r) {
            f32 offset = offset_[row + r];
            for (int32_t v = 0; v < n_tile; ++v) {
                const f32 weight = lanes::load(p + r * tile_tokens + v * lanes::n);
                w[r][v] = lanes::mul(weight, scales[v]);
                largest[r] = lanes::max(largest[r], w[r][v]);
                offset = lanes::fma(has_minima ? weight : w[r][v], middles[v], offset);
            }
            offset_[row + r] = offset;
        }
        round_weights<n_planes, n_rows>(s_, row, w, largest);
    }

    void add_outliers(int32_t first, int32_t n, const float * p) {
        had_outliers_ = true;
        const uint8_t * const channels = block_->value_channels(first);
        const int32_t each = block_->n_outliers();
        lanes::to_f32_whole(block_->value_outliers(first), s_.rows, static_cast<size_t>(n * each));
        for (int32_t row = 0; row < item_.n_rows; row += 4) {
            for (int32_t t = 0; t < tile_tokens; t += 4) {
                lanes::transpose_4(p + row * tile_tokens + t, tile_tokens, s_.s_of + t * 4, 4);
            }
            float * const o = s_.beside(s_.o_of, row);
            for (int32_t t = 0; t < n; ++t) {
                for (int32_t i = t * each; i < (t + 1) * each; ++i) {
                    lanes::add_scaled_4(o + block_->channel(channels, i) * 4, s_.s_of + t * 4, s_.rows[i]);
                }
            }
        }
    }

    const attention_args & args_;
    const attention_item & item_;
    const step_scratch & s_;
    int32_t d_;
    step_block block_;
    bool had_outliers_ = false;
    bool had_groups_ = false;
    f32 offset_[step_rows];  // what the middles of the value grids have added to every channel, summed over at the end
};

}  // namespace
}  // namespace livekv
