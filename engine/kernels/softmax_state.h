#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

namespace livekv {

// The running softmax of up to row_tile rows, which lie side by side: the result so far is o / l, scores are in units
// of ln 2 and relative to m (Milakov & Gimelshein, arXiv 1805.02867). Spans of a long context are joined by merge (as
// in Flash-Decoding).
struct softmax_state {
    float * m;  // [row_tile] largest score so far
    float * l;  // [row_tile] sum of 2^(score - m)
    float * o;  // [head_dim, row_tile] sum of 2^(score - m) v

    static size_t n_floats(int32_t row_tile, int32_t head_dim) {
        return static_cast<size_t>(row_tile) * static_cast<size_t>(head_dim + 2);
    }
    static softmax_state at(float * memory, int32_t row_tile) {
        return {memory, memory + row_tile, memory + 2 * row_tile};
    }
};

// Adds the first n_rows rows of other to those of state. A span that saw no token has l = 0 and o = 0.
inline void merge(const softmax_state & state, const softmax_state & other, int32_t n_rows, int32_t row_tile,
                  int32_t head_dim) {
    constexpr int32_t at_once = 8;
    for (int32_t first = 0; first < n_rows; first += at_once) {
        const int32_t n = n_rows - first < at_once ? n_rows - first : at_once;
        float mine[at_once];
        float theirs[at_once];
        for (int32_t i = 0; i < n; ++i) {
            const int32_t r = first + i;
            const float m = std::fmax(state.m[r], other.m[r]);
            mine[i] = std::exp2(state.m[r] - m);
            theirs[i] = std::exp2(other.m[r] - m);
            state.m[r] = m;
            state.l[r] = state.l[r] * mine[i] + other.l[r] * theirs[i];
        }
        for (int32_t c = 0; c < head_dim; ++c) {
            float * const o = state.o + c * row_tile + first;
            const float * const more = other.o + c * row_tile + first;
            for (int32_t i = 0; i < n; ++i) {
                o[i] = o[i] * mine[i] + more[i] * theirs[i];
            }
        }
    }
}

}  // namespace livekv
