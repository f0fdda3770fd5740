#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kv/kv_block.h"
#include "kv/kv_stream.h"

namespace livekv {

// Widths of a head's quads of channels, [head_dim / 4]: high_bits where one of the four is flagged, else bits.
std::vector<uint8_t> stream_widths(const stream_method & method, const stream_units & units, int64_t head_dim);

// More quads of high width, the first ones that have none, until the widths sum up to width_sum.
void widen(const stream_method & method, int32_t width_sum, std::span<uint8_t> widths);

// One head's chunk as a block of version 3: the codes of stream_chunk, in widths that may be more than their bits, and
// scales rounded to f16. chunk: f32 [n, head_dim]; n_apart: of its tokens, the first ones, which live elsewhere and
// count as 0; block: [kv_map(header).bytes]. What lay beyond its codes' range is counted and returned.
int64_t seal_stream(const stream_method & method, const stream_units & units, const kv_block_header & header,
                    std::span<const uint8_t> widths, std::span<const float> chunk, int64_t n_apart, uint8_t * block);

}  // namespace livekv
