#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kv/kv_block.h"
#include "kv/kv_quant.h"

namespace livekv {

// The header a method gives a chunk of n_tokens. Throws livekv::error for a shape the format cannot hold.
kv_block_header block_header(const kv_method & method, kv_side side, int64_t n_tokens, int64_t head_dim);

// The packed bytes of a sealed chunk, [kv_map(header).bytes]; its sinks live elsewhere. Scales, outliers: rounded to
// f16.
std::vector<uint8_t> pack_block(const kv_block_header & header, const sealed_chunk & sealed);

// The chunk a block of any version but 5 was packed from, as it now is: with the scales, outliers and zero points the
// block holds. Its sinks and n_saturated are not in the block.
sealed_chunk read_block(const uint8_t * block);

// What a block of any version stands for: f32 [n_tokens, head_dim].
std::vector<float> unpack_block(const uint8_t * block);

// The same of tokens first ... first + n - 1 of a block of version 2, 3 or 4, written to f32 [n, head_dim].
void unpack_rows(const uint8_t * block, int32_t first, int32_t n, float * to);

// The code u of (token, channel), 0 ... 2^bits - 1, and the way to write it; of versions 1, 4, 6 and 7.
int32_t block_code(const uint8_t * block, int32_t token, int32_t channel);
void set_block_code(uint8_t * block, int32_t token, int32_t channel, int32_t u);

}  // namespace livekv
