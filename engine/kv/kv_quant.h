#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kv/kv_stats.h"

namespace livekv {

// One sealed chunk of one kv head, unpacked: what the packed block holds, in the order it is easiest to read. This is
// the specification; packed formats and fast kernels are tested against it.
struct sealed_chunk {
    int64_t n_tokens = 0;
    int64_t head_dim = 0;
    bool per_channel = false;            // scales belong to channels (keys), else to tokens (values)
    std::vector<int8_t> codes;           // [n_tokens, head_dim]; of outliers and sinks: the code of 0
    std::vector<float> scale;            // [head_dim] or [n_tokens]
    std::vector<int8_t> zero;            // the same, the code of 0; empty with symmetric codes
    std::vector<int32_t> outlier_index;  // ascending, token * head_dim + channel
    std::vector<float> outlier_value;    // as many
    std::vector<float> sinks;            // [n_sinks, head_dim], the chunk's first tokens, exact
};

// Keys of one kv head: outliers per channel (the largest over the chunk's tokens), scale per channel from the running
// statistic, which this chunk moves first. chunk: f32 [n_tokens, head_dim]; n_sinks: its first tokens that stay exact
// and count as 0 (those of the sequence, so 0 for every chunk but the first).
sealed_chunk seal_keys(const kv_method & method, key_statistics & statistics, std::span<const float> chunk,
                       int64_t head_dim, int64_t n_sinks);

// Values of one kv head: outliers per token (the largest over its channels), scale per token from its own range.
sealed_chunk seal_values(const kv_method & method, std::span<const float> chunk, int64_t head_dim, int64_t n_sinks);

// x' = (code - zero) * scale, then outliers, then sinks written over it (3-7): f32 [n_tokens, head_dim].
std::vector<float> reconstruct(const sealed_chunk & sealed);

}  // namespace livekv
