#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/seal.h"
#include "policy/chunked.h"

namespace livekv {

// What a layer of policy guided knows after a chunk, of the prompt's tokens in chunks so far.
struct guided_state {
    guided_range range;
    double n_kept = 0.0;
    double n_high = 0.0;  // of these, by label
    double n_mid = 0.0;
    double code_bits = 0.0;  // of a number, summed over the kept tokens
    double score_sum = 0.0;
    double score_squares = 0.0;
    float score_low = 0.0f;
    float score_high = 0.0f;

    // In the page after a chunk, f32: counts and sums by the thousand and in two numbers each, so that little is lost
    // and none is larger than what keys can have, which files are held to.
    static constexpr size_t n_floats = 22;
    static guided_state load(const float * from);  // null: of no chunk
    void store(float * to) const;
};

// What becomes of a chunk's tokens.
struct guided_decision {
    std::vector<uint8_t> bits;  // [n] of a code; 0: not in the block: not in the layer, dropped, or one of the sinks
    guided_state after;
};

// first: position of the chunk's first token; n_sinks: of its tokens, those stored as they are elsewhere; weights: [n]
// tail_weights, generated text having the bits of the first level; n_prompt: tokens of the prompt, 0: up to the last
// one of it in the chunk. With propagate layers, what the weights say is dropped is, and nothing else.
guided_decision decide_chunk(const guided_plan & plan, int64_t n_prompt, int64_t first, int64_t n_sinks,
                             std::span<const float> weights, const guided_state & before);

// The same of a whole prompt whose guide is at its end, chunk by chunk. chunks: tokens of each; n_sinks: of the first
// chunk's; attention: [all of them], what the guide gives to each. The range of every state is the whole prompt's.
std::vector<guided_decision> decide_prompt(const guided_plan & plan, std::span<const int64_t> chunks, int64_t n_sinks,
                                           std::span<const float> attention);

// One side of the chunk in blocks of version 5. heads: [n_head_kv], rows of these tokens of the chunk, which all that
// have bits are among; errors: [n_head_kv], or empty: not measured. Throws std::bad_alloc.
kv_chunk_side seal_guided_chunk(const guided_method & method, const cpu_kernels & kernels, kv_side side,
                                std::span<const chunk_rows> heads, std::span<const int32_t> tokens,
                                std::span<const uint8_t> bits, std::span<kv_error_sums> errors);

// The same of what such a side stands for, whose tokens all have bits in it, but for sinks.
kv_chunk_side seal_guided_anew(const guided_method & method, kv_side side, const kv_chunk_side & held,
                               int64_t n_head_kv, std::span<const uint8_t> bits, std::span<kv_error_sums> errors);

}  // namespace livekv
