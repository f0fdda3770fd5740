#pragma once

// Streaming KVQuant (policy kvstream): one scale a channel for a whole chunk, made of a running maximum. Of one side of
// one kv head, with m the largest |x| of a channel over the chunk's tokens, D the decay and R the relative threshold:
//
//   mu = m in the first chunk, then D mu + (1 - D) m
//   flagged: m > R mu, mu moved already, or m > the absolute threshold
//   bits of an entry: high for the sequence's first tokens and in flagged channels, else normal
//   s = max(range, 1e-8) / (2^(b-1) - 1), code = clamp(rint(x / s), -2^(b-1), 2^(b-1) - 1), x' = code s
//
// where b, s and the range are those of the entry's own bits. Entries of 16 bits are kept as they are.
//
// Of a channel that is not above the absolute threshold, m > R mu holds from R D / (1 - R (1 - D)) times the mu before
// on: 3.857 with D 0.9 and R 3. Never in a first chunk, and never for a channel that was heavy all along.

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace livekv {

struct stream_method {
    // What the range of an entry is.
    enum class range {
        cover,  // mu; of high entries the larger of mu and m
        ema,    // mu, as published
        own,    // m
    };

    int32_t bits = 4;         // normal: 2, 3, 4, 5, 8 or 16
    int32_t high_bits = 8;    // not below normal
    int32_t groups = 0;       // equal runs of channels that share m, mu, flag and scale; 0: every channel its own
    int32_t sink_tokens = 4;  // first tokens of a sequence, which have high bits
    float decay = 0.9f;       // D, in (0, 1)
    float relative = 3.0f;    // R, above 1
    float absolute = std::numeric_limits<float>::infinity();
    bool detects = true;  // false: nothing is flagged
    range scale_range = range::cover;
    int32_t stat_reset = 0;  // mu starts anew every so many chunks; 0: never

    // How many channels, or runs of them, a head of head_dim channels has.
    int64_t units(int64_t head_dim) const { return groups > 0 ? groups : head_dim; }
    // Whether anything is sealed at all.
    bool seals() const { return bits < 16; }
};

// What a chunk of one kv head is sealed by: [units] each.
struct stream_units {
    std::vector<float> absmax;  // m
    std::vector<float> mu;      // this chunk in it
    std::vector<uint8_t> flagged;
    std::vector<float> scale;       // of normal entries; 0 where they have 16 bits
    std::vector<float> high_scale;  // of high ones
};

// chunk: f32 [n, head_dim], the sequence's chunk number `index`; before: mu after the one before, [units], or empty
// where there was none.
stream_units stream_units_of(const stream_method & method, std::span<const float> chunk, int64_t head_dim,
                             std::span<const float> before, int64_t index);

// A chunk's entries, [n, head_dim] each.
struct streamed_chunk {
    std::vector<int16_t> codes;         // 0 where an entry has 16 bits
    std::vector<uint8_t> bits;          // of an entry
    std::vector<float> reconstruction;  // x'
};

// n_high: of the chunk's tokens, the first ones that have high bits.
streamed_chunk stream_chunk(const stream_method & method, const stream_units & units, std::span<const float> chunk,
                            int64_t head_dim, int64_t n_high);

// Of n tokens that begin at this position, how many are among the first that have high bits.
int64_t stream_high_tokens(const stream_method & method, int64_t position, int64_t n);

}  // namespace livekv
