#pragma once

// Walsh-Hadamard rotation of rows that lie side by side: x [head_dim, n_rows] in runs of `run` channels (a power of
// two; 0: nothing), each run times the orthonormal matrix of its size, which is its own inverse. Internal linkage: each
// CPU level compiles its own.

#include <cmath>
#include <cstdint>

namespace livekv {
namespace {

inline void rotate_rows(float * x, int32_t head_dim, int32_t run, int32_t n_rows) {
    if (run < 2) {
        return;
    }
    const float norm = 1.0f / __builtin_sqrtf(static_cast<float>(run));
    for (int32_t first = 0; first + run <= head_dim; first += run) {
        for (int32_t half = 1; half < run; half *= 2) {
            const float factor = half == 1 ? norm : 1.0f;
            for (int32_t c = first; c < first + run; c += 2 * half) {
                for (int32_t i = c; i < c + half; ++i) {
                    float * __restrict a = x + i * n_rows;
                    float * __restrict b = x + (i + half) * n_rows;
                    for (int32_t r = 0; r < n_rows; ++r) {
                        const float sum = (a[r] + b[r]) * factor;
                        b[r] = (a[r] - b[r]) * factor;
                        a[r] = sum;
                    }
                }
            }
        }
    }
}

}  // namespace
}  // namespace livekv
