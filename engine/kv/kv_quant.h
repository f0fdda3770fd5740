#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kv/kv_stats.h"

namespace livekv {

// Channels in classes of width, four of a width side by side, the widest first.
struct key_classes {
    std::vector<uint16_t> order;  // [head_dim] the channel that stands there
    std::vector<uint8_t> widths;  // [head_dim / 4]
};

// One sealed chunk of one kv head, unpacked: what the packed block holds, in the order it is easiest to read. This is
// the specification; the packed format and the fast kernels are tested against it.
struct sealed_chunk {
    int64_t n_tokens = 0;
    int64_t head_dim = 0;
    int32_t bits = 0;
    bool per_channel = false;            // scales belong to channels (keys), else to tokens (values)
    int64_t group = 0;                   // tokens that share a channel's scale (keys)
    int64_t channel_group = 0;           // channels that share a token's scale (version 6); 0: all of them
    std::vector<int16_t> codes;          // [n_tokens, head_dim]; of outliers and sinks: the code nearest to 0
    std::vector<float> scale;            // [n_groups, head_dim], [n_tokens] or, in version 6, [n_groups, n_tokens]
    std::vector<int16_t> zero;           // the same, the code of 0, which may lie outside the codes; empty: symmetric
    key_classes classes;                 // of version 2, whose bits is 0; else empty
    std::vector<float> minimum;          // of versions 2, 4, 6 and 7, as scale: what code 0 stands for
    std::vector<float> levels;           // of version 7: what is in the place of codes, of which 0 has no meaning
    std::vector<int32_t> outlier_index;  // ascending, token * head_dim + channel
    std::vector<float> outlier_value;    // as many
    std::vector<float> sinks;            // [n_sinks, head_dim], the chunk's first tokens, exact
    int64_t n_saturated = 0;             // dense entries beyond the range their codes cover

    // Index into scale and zero of entry i of codes.
    size_t scale_index(size_t i) const {
        const size_t d = static_cast<size_t>(head_dim);
        const size_t of_channel = channel_group > 0 ? i % d / static_cast<size_t>(channel_group) : 0;
        return per_channel ? i / d / static_cast<size_t>(group) * d + i % d
                           : of_channel * static_cast<size_t>(n_tokens) + i / d;
    }
};

// Moves the statistic by one chunk, as its keys are before anything is sealed. chunk: f32 [n_tokens, head_dim];
// n_sinks: its first tokens that stay exact and count as 0 (those of the sequence: 0 for every chunk but the first).
void observe_keys(const kv_method & method, key_statistics & statistics, std::span<const float> chunk, int64_t n_sinks);

// Keys of one kv head: outliers per channel (the largest over the chunk's tokens), scale per channel and group from
// the statistic as it stands, or the group's own range. Shapes as in observe_keys.
sealed_chunk seal_keys(const kv_method & method, const key_statistics & statistics, std::span<const float> chunk,
                       int64_t head_dim, int64_t n_sinks);

// Values of one kv head: outliers per token (the largest over its channels), scale per token from its own range.
sealed_chunk seal_values(const kv_method & method, std::span<const float> chunk, int64_t head_dim, int64_t n_sinks);

// x' = (code - zero) * scale, or minimum + code * scale, with levels minimum + levels[code] * scale, then outliers,
// then sinks written over it (3-7): f32 [n_tokens, head_dim].
std::vector<float> reconstruct(const sealed_chunk & sealed);

}  // namespace livekv
