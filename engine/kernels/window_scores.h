#pragma once

#include <cstdint>
#include <span>

#include "kernels/attention.h"
#include "kernels/cpu/kernels.h"
#include "kv/kv_fastkv.h"

namespace livekv {

// Queries of a sequence's last tokens, f32 [n, n_head, head_dim], after RoPE.
struct window_queries {
    const float * q = nullptr;
    int64_t n = 0;
    int64_t n_head = 0;
    int64_t n_head_kv = 0;
    int64_t head_dim = 0;
    float scale = 0.0f;  // of q . k before the softmax
};

// What kv_fastkv.h calls the score of a kv head, of the tokens before the window. segments: f16 rows of all the
// sequence's keys, the window's the last ones. score: [n_tokens - queries.n], written. No weights are kept but their
// sums over the window, a query head each: keys are read twice, once for what softmax divides by. Throws
// std::bad_alloc.
void window_scores(const cpu_kernels & kernels, const window_queries & queries, std::span<const kv_segment> segments,
                   int64_t head, fastkv_method::pooling pool, std::span<float> score);

}  // namespace livekv
