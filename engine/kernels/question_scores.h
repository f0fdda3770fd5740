#pragma once

#include <cstdint>
#include <span>

#include "kernels/attention.h"
#include "kernels/cpu/kernels.h"

namespace livekv {

// A question's queries, f32 [n, n_head, head_dim], after RoPE.
struct question_queries {
    const float * q = nullptr;
    int64_t n = 0;
    int64_t n_head = 0;
    int64_t n_head_kv = 0;
    int64_t head_dim = 0;
    float scale = 0.0f;              // of q . k before the softmax
    std::span<const float> factors;  // [n], of each token's weights
};

// What one query head adds to kv_finch.h's scores of the columns, the keys before the question. segments: f16 rows of
// all keys, the question's the last ones; turns: they are before RoPE. score: [n_keys - queries.n], written. No weights
// are kept but their sums: keys are read twice, once for what softmax divides by. Throws std::bad_alloc.
void question_scores(const cpu_kernels & kernels, const question_queries & queries,
                     std::span<const kv_segment> segments, const rope_turns * turns, int64_t query_head,
                     std::span<float> score);

}  // namespace livekv
