#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kv/guided_block.h"
#include "kv/kv_block.h"

namespace livekv {

// Blocks of version 5: a chunk's tokens by level.

// What levels a block of so many tokens has, most bits first. bits: [n_tokens], at most three numbers of 16, 8, 5, 4, 3
// and 2, and 0: the token is not in the block.
struct level_plan {
    kv_block_header header;
    std::vector<kv_level> levels;  // [kv_n_levels]
    std::vector<uint8_t> places;   // [n_tokens] level, or kv_no_level
};
level_plan plan_levels(kv_side side, guided_method::key_axis axis, std::span<const uint8_t> bits, int64_t head_dim);

// Seals x, f32 [n_tokens, head_dim] that f16 holds: [kv_map(plan.header).bytes].
std::vector<uint8_t> seal_levels(const level_plan & plan, guided_method::key_axis axis, std::span<const float> x);

// Of one of a block's tokens; kv_no_level: it is not in it.
uint8_t level_of_token(const uint8_t * block, int32_t token);

// Whether two blocks of as many tokens have the same ones on each level.
bool same_tokens(const uint8_t * a, const uint8_t * b);

// The level's numbers in a block, and how many of its tokens are among the block's first n.
kv_level level_of_block(const uint8_t * block, int32_t level);
int32_t tokens_of_level(const uint8_t * block, int32_t level, int32_t n);

// f32 [n_tokens, head_dim]; 0 where a token is not in the block.
std::vector<float> unpack_levels(const uint8_t * block);

// What is wrong with a block of this header and kv_map(expected).bytes bytes, of which nothing else was checked; empty:
// nothing.
std::string problem_of_levels(const uint8_t * block, const kv_block_header & expected);

}  // namespace livekv
