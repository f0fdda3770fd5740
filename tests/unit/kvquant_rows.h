#pragma once

// Rows of one kv head, quantized by a calibration of themselves.

#include <span>
#include <vector>

#include "kv/kv_kvquant.h"
#include "kv/kvquant_block.h"

struct kvquant_rows {
    std::vector<livekv::kvquant_range> ranges;
    std::vector<float> codebook;
    livekv::kvquant_tokens tokens;
};

// x: f32 [n, d].
inline kvquant_rows quantized_rows(livekv::kv_side side, int32_t bits, std::span<const float> x, int64_t d,
                                   int64_t n_sinks) {
    kvquant_rows q;
    const bool key = side == livekv::kv_side::key;
    q.ranges = key ? livekv::kvquant_channel_ranges(x, d) : livekv::kvquant_token_ranges(x, 1, d);
    std::vector<float> within;
    for (size_t i = 0; i < x.size(); ++i) {
        const size_t row = static_cast<size_t>(d);
        const livekv::kvquant_range & range = q.ranges[key ? i % row : i / row];
        if (range.contains(x[i])) {
            within.push_back(range.normalized(x[i]));
        }
    }
    q.codebook = livekv::kvquant_codebook(within, bits);
    q.tokens = livekv::kvquant_quantize(x, d, q.ranges, key, q.codebook, n_sinks);
    return q;
}

// Their block, with room for n_room outliers.
inline std::vector<uint8_t> block_of_rows(livekv::kv_side side, int32_t bits, std::span<const float> x, int64_t d,
                                          int64_t n_sinks, size_t n_room) {
    const kvquant_rows q = quantized_rows(side, bits, x, d, n_sinks);
    const auto n = static_cast<int32_t>(x.size() / static_cast<size_t>(d));
    const livekv::kv_block_header h =
        livekv::kv_codebook_header(side, n, static_cast<int32_t>(d), bits, static_cast<uint32_t>(n_room));
    return livekv::kvquant_block(h, x, q.tokens, q.ranges, q.codebook, n_sinks);
}
