#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kv/kv_block.h"
#include "kv/kv_kvquant.h"
#include "kv/kv_quant.h"

namespace livekv {

// Blocks of version 7: KVQuant's codes, its codebook, thresholds and outliers.

// What is kept exactly of a kv head's tokens, less its first n_sinks, which a block does not have.
int64_t kvquant_outlying(const kvquant_tokens & tokens, int64_t head_dim, int64_t n_sinks);

// tokens, whose codes and outliers are of x, f32 [n_tokens, head_dim] that f16 holds; ranges as in kvquant_quantize.
// Middles, halves and the codebook are rounded to f16. h: with room for kvquant_outlying. Returns [kv_map(h).bytes].
std::vector<uint8_t> kvquant_block(const kv_block_header & h, std::span<const float> x, const kvquant_tokens & tokens,
                                   std::span<const kvquant_range> ranges, std::span<const float> codebook,
                                   int64_t n_sinks);

// The chunk that a block of version 7 stands for.
sealed_chunk read_kvquant_block(const uint8_t * block);

// How many outliers are in a block of version 7, of those it has room for.
int64_t kvquant_outliers_of(const uint8_t * block);

}  // namespace livekv
