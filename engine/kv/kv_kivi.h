#pragma once

// KIVI (policy kivi; arXiv 2402.02750): keys by channel, in groups of 32 tokens, values by token, in groups of 32
// channels. The newest tokens are not quantized: of n tokens with a window of R, keys are up to n / R * R, R at a time,
// and values up to n - R. Of a group, b bits a code:
//
//   s = (high - low) / (2^b - 1), code = clamp(rint((x - low) / s), 0, 2^b - 1), x' = code s + low; code 0 if s = 0

#include <cstdint>
#include <span>
#include <vector>

#include "kv/kv_block.h"

namespace livekv {

constexpr int64_t kivi_group = kv_group_channels;  // tokens of a key channel, channels of a value

struct kivi_method {
    int32_t k_bits = 4;  // 2 or 4
    int32_t v_bits = 4;
    int64_t residual = 128;  // R, a multiple of 32

    int32_t bits(kv_side side) const { return side == kv_side::key ? k_bits : v_bits; }

    // How many of a sequence's first n tokens the publication has quantized.
    int64_t n_quantized(kv_side side, int64_t n) const {
        return n < residual ? 0 : side == kv_side::key ? n / residual * residual : n - residual;
    }
};

// Tokens of one kv head, quantized.
struct kivi_tokens {
    std::vector<uint8_t> codes;         // [n, head_dim]
    std::vector<float> scale;           // keys [n / 32, head_dim], values [n, head_dim / 32], rounded up
    std::vector<float> low;             // the same
    std::vector<float> reconstruction;  // [n, head_dim]
};

// x: f32 [n, head_dim].
kivi_tokens kivi_quantize(kv_side side, int32_t bits, std::span<const float> x, int64_t head_dim);

// Keys are blocks of version 2, all channels of one width in their order, values of version 6.
kv_block_header kivi_header(kv_side side, int64_t n_tokens, int64_t head_dim, int32_t bits);

// Seals x, f32 [n_tokens, head_dim] that f16 holds, with the codes of kivi_quantize; scales and minima are rounded to
// f16. Returns [kv_map(h).bytes].
std::vector<uint8_t> kivi_block(const kv_block_header & h, std::span<const float> x);

}  // namespace livekv
