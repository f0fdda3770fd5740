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

#include "kernels/cpu/row_groups.h"
#include "kernels/cpu/row_keys.h"
#include "kernels/cpu/row_values.h"

namespace livekv {
namespace {

// One item: the queries, the running state, and the tiles they go over.
class row_attention {
  public:
    row_attention(const attention_args & args, const attention_item & item, void * memory, const softmax_state & state)
        : args_(args),
          item_(item),
          s_(memory, args.head_dim),
          keys_(args, item, s_),
          state_(state),
          d_(args.head_dim) {}

    void run() {
        keys_.load_queries();
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
            for (; tile < n_tiles && left > 0; ++tile, --left) {
                if (!behind_window(i, tile) && !after_rows(i, tile)) {
                    one_tile(i, tile);
                }
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
    // Whether no row sees anything of a tile, because all of it is too far back.
    bool behind_window(int64_t i_segment, int32_t tile) const {
        const int64_t end = args_.segments[i_segment].first + (tile + 1) * tile_tokens;
        return args_.window > 0 && end <= args_.first_seen(item_.first_row / args_.group());
    }

    // Whether no row sees anything of a tile, because all of it comes after their own tokens.
    bool after_rows(int64_t i_segment, int32_t tile) const {
        return i_segment + 1 == args_.n_segments &&
               tile * tile_tokens > own_place(args_.segments[i_segment].n_tokens, item_.n_rows - 1);
    }

    // Where a row's own token is in the last segment, of n tokens.
    int64_t own_place(int32_t n, int32_t r) const {
        return static_cast<int64_t>(n) - args_.n_tokens + (item_.first_row + r) / args_.group();
    }

    void one_tile(int64_t i_segment, int32_t tile) {
        const kv_segment & segment = args_.segments[i_segment];
        const int32_t first = tile * tile_tokens;
        const int32_t n = segment.n_tokens - first < tile_tokens ? segment.n_tokens - first : tile_tokens;
        keys_.take_scores(i_segment, tile, n);
        if (segment.n_skip > first) {
            hide(0, segment.n_skip - first < n ? segment.n_skip - first : n);
        }
        if (i_segment + 1 == args_.n_segments) {
            hide_future(segment.n_tokens, first, n);
        }
        if (args_.window > 0) {
            hide_past(segment.first + first, n);
        }
        hide(n, tile_tokens);
        softmax_step(n);
        if (segment.v_blocks) {
            const block_reader block(segment.v_blocks + static_cast<size_t>(item_.head) * segment.v_block_bytes);
            if (block.has_groups()) {
                return group_values(block, tile, n, d_, s_, state_.o);
            }
            if (!block.in_floats()) {
                return block_values(block, tile, n, d_, s_, state_.o);
            }
            float_rows(block, kv_side::value, tile, d_, s_.channels, s_.rows, static_cast<size_t>(d_));
        } else {
            load_rows(args_, item_.head, segment.v_rows, first, n, s_);
        }
        multiply_add(s_.rows, 1, static_cast<size_t>(d_), d_, n, s_.scores, state_.o);
    }

    void hide(int32_t from, int32_t to) {
        for (int32_t i = from * n_rows_tile; i < to * n_rows_tile; ++i) {
            s_.scores[i] = 2.0f * hidden_score;
        }
    }

    // In the last segment, which ends with the new tokens, a row sees what is not after its own token.
    void hide_future(int32_t n_segment, int32_t first, int32_t n) {
        for (int32_t r = 0; r < item_.n_rows; ++r) {
            const int64_t own = own_place(n_segment, r);
            for (int64_t t = own + 1 > first ? own + 1 - first : 0; t < n; ++t) {
                s_.scores[t * n_rows_tile + r] = 2.0f * hidden_score;
            }
        }
    }

    // What lies before a row's window. first: the position of the tile's first token.
    void hide_past(int64_t first, int32_t n) {
        for (int32_t r = 0; r < item_.n_rows; ++r) {
            const int64_t seen_from = args_.first_seen((item_.first_row + r) / args_.group()) - first;
            for (int32_t t = 0; t < n && t < seen_from; ++t) {
                s_.scores[t * n_rows_tile + r] = 2.0f * hidden_score;
            }
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

    const attention_args & args_;
    const attention_item & item_;
    scratch_map s_;
    row_keys keys_;
    softmax_state state_;
    int32_t d_;
};

}  // namespace
}  // namespace livekv
