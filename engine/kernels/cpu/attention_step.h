#pragma once

// Attention of a few rows, as in decode: the query heads of one kv head, of one token or some, up to step_rows. Where
// attention_rows.h puts rows side by side in vector lanes, here lanes are the tokens (keys) or channels (values) of
// bricks, so that few rows waste none and codes go from memory into products without a stop. The arithmetic is the
// same.

#include "kernels/cpu/attention_rows.h"
#include "kernels/cpu/step_keys.h"
#include "kernels/cpu/step_values.h"

namespace livekv {
namespace {

class step_attention {
  public:
    step_attention(const attention_args & args, const attention_item & item, void * memory, const softmax_state & state)
        : args_(args),
          item_(item),
          s_(memory, args.head_dim),
          keys_(args, item, s_),
          values_(args, item, s_),
          state_(state) {}

    void run() {
        for (int32_t r = 0; r < step_rows; ++r) {
            m_[r] = hidden_score;
            l_[r] = lanes::set(0.0f);
        }
        keys_.load_queries();
        // A tile's keys come before the values of the tile before: their products fill the time in which the few
        // numbers of the softmax wait for each other.
        place next{item_.first_segment, item_.first_tile};
        keys_.take_scores(next.segment, next.tile, n_tokens(next), s_.scores[0]);
        for (int64_t i = 0; i < item_.n_tiles; ++i) {
            const place now = next;
            float * const p = s_.scores[i % 2];
            hide(now, p);
            softmax_step(p);
            values_.weigh(now.segment, now.tile, p);
            if (i + 1 < item_.n_tiles) {
                next = after(now);
                keys_.take_scores(next.segment, next.tile, n_tokens(next), s_.scores[(i + 1) % 2]);
            }
            values_.add(now.segment, now.tile, n_tokens(now), p);
        }
        for (int32_t r = 0; r < item_.n_rows; ++r) {
            state_.m[r] = m_[r];
            state_.l[r] = lanes::sum(l_[r]);
        }
        values_.hand_over(state_.o);
    }

  private:
    struct place {
        int64_t segment;
        int32_t tile;
    };
    int32_t n_tokens(place at) const {
        const int32_t left = args_.segments[at.segment].n_tokens - at.tile * tile_tokens;
        return left < tile_tokens ? left : tile_tokens;
    }
    place after(place at) const {
        const bool last = (at.tile + 1) * tile_tokens >= args_.segments[at.segment].n_tokens;
        return last ? place{at.segment + 1, 0} : place{at.segment, at.tile + 1};
    }

    // What is not to be seen: tokens before n_skip or a row's window, those behind its own, and those a tile has too
    // few of.
    void hide(place at, float * scores) const {
        const kv_segment & segment = args_.segments[at.segment];
        const int64_t first = at.tile * tile_tokens;
        // Of a row's token in this tile.
        const auto seen_from = [&](int64_t token) {
            const int64_t in_window = args_.first_seen(token) - segment.first;
            return (in_window > segment.n_skip ? in_window : segment.n_skip) - first;
        };
        const auto seen_to = [&](int64_t token) {
            const bool is_last = at.segment + 1 == args_.n_segments;
            return segment.n_tokens - (is_last ? args_.n_tokens - 1 - token : 0) - first;
        };
        if (seen_from(token_of(item_.n_rows - 1)) <= 0 && seen_to(token_of(0)) >= tile_tokens) {
            return;
        }
        for (int32_t r = 0; r < item_.n_rows; ++r) {
            const int64_t from = seen_from(token_of(r));
            const int64_t to = seen_to(token_of(r));
            float * const s = scores + r * tile_tokens;
            for (int32_t t = 0; t < tile_tokens; ++t) {
                s[t] = t < from || t >= to ? 2.0f * hidden_score : s[t];
            }
        }
    }

    int64_t token_of(int32_t row) const { return (item_.first_row + row) / args_.group(); }

    // Scores become weights relative to the largest score so far.
    void softmax_step(float * scores) {
        bool higher = false;
        for (int32_t r = 0; r < item_.n_rows; ++r) {
            higher |= lanes::any_greater(largest_of(scores + r * tile_tokens), lanes::set(m_[r]));
        }
        if (higher) {
            raise_largest(scores);
        }
        for (int32_t r = 0; r < item_.n_rows; ++r) {
            float * const s = scores + r * tile_tokens;
            const f32 m = lanes::set(m_[r]);
            f32 l = l_[r];
            for (int32_t v = 0; v < n_tile; ++v) {
                const f32 p = exp2_negative(lanes::sub(lanes::load(s + v * lanes::n), m));
                l = lanes::add(l, p);
                lanes::store(s + v * lanes::n, p);
            }
            l_[r] = l;
        }
    }

    static f32 largest_of(const float * scores) {
        f32 largest = lanes::load(scores);
        for (int32_t v = 1; v < n_tile; ++v) {
            largest = lanes::max(largest, lanes::load(scores + v * lanes::n));
        }
        return largest;
    }

    // What was summed before is brought to the new largest scores; seldom, once a context is long.
    __attribute__((noinline)) void raise_largest(const float * scores) {
        for (int32_t r = 0; r < item_.n_rows; ++r) {
            const float m = lanes::largest(largest_of(scores + r * tile_tokens));
            if (m > m_[r]) {
                const float factor = lanes::largest(exp2_negative(lanes::set(m_[r] - m)));
                m_[r] = m;
                l_[r] = lanes::mul(l_[r], lanes::set(factor));
                values_.scale(r, factor);
            }
        }
    }

    const attention_args & args_;
    const attention_item & item_;
    step_scratch s_;
    step_keys keys_;
    step_values values_;
    softmax_state state_;
    float m_[step_rows];
    f32 l_[step_rows];  // summed over lanes only at the end: a sum across one costs more than all that goes into it
};

// A call of few rows goes the one way, of many the other. What the first makes of a row does not depend on the others.
inline void attend(const attention_args & args, const attention_item & item, void * scratch,
                   const softmax_state & state) {
    if (args.n_rows() <= step_rows) {
        step_attention(args, item, scratch, state).run();
    } else {
        row_attention(args, item, scratch, state).run();
    }
}

inline size_t attend_scratch_bytes(int32_t head_dim) {
    const size_t rows = scratch_map(nullptr, head_dim).bytes;
    const size_t step = step_scratch(nullptr, head_dim).bytes;
    return rows > step ? rows : step;
}

}  // namespace
}  // namespace livekv
