#pragma once

#include <cstdint>
#include <span>

#include "kv/kv_block.h"

namespace livekv {

// Seals x, f32 [n_tokens, head_dim] that f16 holds, into block, [kv_map(header).bytes]: byte for byte kivi_block
// (kv/kv_kivi.h says what that is), in passes that run along the rows.
void seal_kivi(const kv_block_header & header, std::span<const float> x, uint8_t * block);

}  // namespace livekv
