#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kv/kv_block.h"
#include "kv/kv_guided.h"

namespace livekv {

// Tokens of one level as a block: values, and keys of token axis, in version 4; keys of channel axis in version 2, all
// channels of one width; of 16 bits in version 3, as they are. bits: 16, 8, 5, 4, 3 or 2.
kv_block_header guided_header(kv_side side, guided_method::key_axis axis, int64_t n_tokens, int64_t head_dim,
                              int32_t bits);

// Seals x, f32 [n_tokens, head_dim] that f16 holds, with the codes of the scalar reference. Returns [kv_map(h).bytes].
std::vector<uint8_t> guided_block(const kv_block_header & h, std::span<const float> x);

}  // namespace livekv
