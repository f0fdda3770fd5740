#pragma once

// What a call of attention is. README.md beside this: how one goes through the kernels, and the words they use.

#include <cstddef>
#include <cstdint>

#include "kernels/softmax_state.h"
#include "rope/rope_tiles.h"

namespace livekv {

// Tokens of one layer that are stored alike: consecutive ones, or a chunk's of one level. Keys, and values, are either
// sealed blocks, one a kv head, or f16 rows. Plain data: who fills it keeps the memory alive.
struct kv_segment {
    int64_t first = 0;  // position of its first token in the sequence; read where there is a window, or keys are turned
    int32_t n_tokens = 0;                // to be read, from the first on; a block may hold more
    int32_t n_skip = 0;                  // of these, the first ones that are not (sinks, which have their own segment)
    const uint8_t * k_blocks = nullptr;  // [n_head_kv] blocks, k_block_bytes apart; null: rows
    const uint8_t * v_blocks = nullptr;
    size_t k_block_bytes = 0;
    size_t v_block_bytes = 0;
    const uint16_t * k_rows = nullptr;  // f16 [n_tokens, n_head_kv, head_dim]
    const uint16_t * v_rows = nullptr;
};

// Attention of a layer's new tokens over everything up to themselves.
struct attention_args {
    const float * q = nullptr;  // [n_tokens, n_head, head_dim], after RoPE
    float * out = nullptr;      // [n_tokens, n_head, head_dim]
    float * log_sums =
        nullptr;  // [n_tokens, n_head] of what softmax divides by, the logarithm to base 2; null: unwanted
    int32_t n_tokens = 0;
    int32_t n_head = 0;
    int32_t n_head_kv = 0;
    int32_t head_dim = 0;
    int32_t k_rotation = 0;  // keys are stored rotated (rotate_rows.h) in runs of this many channels; 0: they are not
    int32_t v_rotation = 0;  // values likewise
    const rope_turns * turns = nullptr;     // keys are stored before RoPE, and turned by this while being read
    float scale = 0.0f;                     // of q . k before the softmax
    int64_t window = 0;                     // tokens a query sees, its own and those right before it; 0: all
    const kv_segment * segments = nullptr;  // in the order of the sequence; the last one ends with the new tokens
    int64_t n_segments = 0;

    int32_t group() const { return n_head / n_head_kv; }                         // query heads that share a kv head
    int64_t n_rows() const { return static_cast<int64_t>(n_tokens) * group(); }  // queries of one kv head

    // The first position that new token i sees.
    int64_t first_seen(int64_t i) const {
        const kv_segment & last = segments[n_segments - 1];
        const int64_t own = last.first + last.n_tokens - n_tokens + i;
        return window > 0 && own >= window ? own - window + 1 : 0;
    }
};

// Part of a call: some rows (a row is a query head of a token, the heads of a token side by side) of one kv head over
// some of the segments' tiles of 32 tokens.
struct attention_item {
    int32_t head = 0;
    int64_t first_row = 0;
    int32_t n_rows = 0;
    int64_t first_segment = 0;  // where the span starts: tile first_tile of this segment
    int32_t first_tile = 0;
    int64_t n_tiles = 0;
};

}  // namespace livekv
