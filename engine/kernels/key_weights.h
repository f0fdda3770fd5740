#pragma once

#include <cstdint>
#include <span>

#include "kernels/attention.h"
#include "kernels/cpu/kernels.h"

namespace livekv {

// Queries of a sequence's last tokens, f32 [n, n_head, head_dim], after RoPE.
struct last_queries {
    const float * q = nullptr;
    int64_t n = 0;
    int64_t n_head = 0;
    int64_t n_head_kv = 0;
    int64_t head_dim = 0;
    float scale = 0.0f;                   // of q . k before the softmax
    std::span<const float> factors = {};  // [n], of each token's weights; empty: 1
};

// What tokens are judged by (policies fastkv, finch, and guided with a guide at the end): the weights that these
// queries give to keys, each softmaxed over the keys that its token sees, summed over the queries. Of n_heads query
// heads from first_head on, which share a kv head. segments: all of the sequence's keys, f16 rows, or blocks as
// unpack_rows reads them; turns: they are before RoPE. sums: [n_heads, of so many of the first keys], written. No
// weights are kept but their sums: keys are read twice, once for what softmax divides by. Equal keys in equal
// segments have equal sums, to the bit, on every CPU level. Throws std::bad_alloc.
void sum_key_weights(const cpu_kernels & kernels, const last_queries & queries, std::span<const kv_segment> segments,
                     const rope_turns * turns, int64_t first_head, int64_t n_heads, std::span<float> sums);

}  // namespace livekv
