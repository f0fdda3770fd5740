#pragma once

// KVQuant (policy kvquant; arXiv 2401.18079): keys before RoPE and values as codes into a codebook of 2^b numbers, one
// a layer and side, what lies beyond two thresholds kept exactly, and the sequence's first token too. Thresholds of
// keys are a channel's, from calibration: the 0.5 % and 99.5 % quantiles of its numbers. Those of values are a token's
// own, over all kv heads. Of what lies within:
//
//   middle = (lower + upper) / 2, half = (upper - lower) / 2
//   y = (x - middle) / half, 0 where half is 0; the code is the nearest entry's of the codebook, the lower of two;
//   it stands for middle + half codebook[code]
//
// The codebook is what k-means makes of all y of the calibration.

#include <cstdint>
#include <span>
#include <vector>

namespace livekv {

constexpr double kvquant_share_beyond = 0.005;  // of the numbers, on either side
constexpr int64_t kvquant_exact_tokens = 1;     // a sequence's first ones

constexpr int32_t kvquant_min_bits = 2;
constexpr int32_t kvquant_max_bits = 4;

// Between two thresholds, which lie within.
struct kvquant_range {
    float lower = 0.0f;
    float upper = 0.0f;

    float middle() const { return 0.5f * (lower + upper); }
    float half() const { return 0.5f * (upper - lower); }
    bool contains(float x) const { return x >= lower && x <= upper; }
    float normalized(float x) const { return half() > 0.0f ? (x - middle()) / half() : 0.0f; }
};

// The quantiles, which are two of the numbers (the nearest ones: of n, rint(0.005 (n - 1)) lie before and behind in
// their order). x: not empty; its order is lost.
kvquant_range kvquant_quantiles(std::span<float> x);

// Of each channel of x, f32 [n, head_dim]: [head_dim].
std::vector<kvquant_range> kvquant_channel_ranges(std::span<const float> x, int64_t head_dim);

// Of each token of x, f32 [n_head, n, head_dim], over all heads: [n].
std::vector<kvquant_range> kvquant_token_ranges(std::span<const float> x, int64_t n_head, int64_t head_dim);

// K-means of finite numbers in one dimension, exact (Lloyd's steps until no number changes its entry): 2^bits ascending
// numbers, the first guess being evenly spaced quantiles. x: not empty.
std::vector<float> kvquant_codebook(std::span<const float> x, int32_t bits);

// The entry nearest to y, the lower one of two.
uint8_t kvquant_code(std::span<const float> codebook, float y);

// Keys or values of one kv head, quantized.
struct kvquant_tokens {
    std::vector<uint8_t> outlier;       // [n, head_dim]: kept exactly
    std::vector<uint8_t> codes;         // the same; 0 of outliers
    std::vector<float> reconstruction;  // the same
};

// x: f32 [n, head_dim]; ranges: [head_dim] of keys (by_channel), else [n]; the first n_exact tokens are exact.
kvquant_tokens kvquant_quantize(std::span<const float> x, int64_t head_dim, std::span<const kvquant_range> ranges,
                                bool by_channel, std::span<const float> codebook, int64_t n_exact);

}  // namespace livekv
