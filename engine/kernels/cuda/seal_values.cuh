#pragma once

// Values of a tile of 32 tokens: a warp a token, lanes along the channels; tiles depend on nothing else.

#include "kernels/cuda/brick.h"
#include "kernels/cuda/seal_line.cuh"

namespace livekv::device {

struct value_tile_memory {
    uint16_t * x;      // [32, head_dim + 2]
    uint8_t * codes;   // [head_dim, 32 + 4]
    uint32_t * apart;  // [32, ceil(head_dim / 32)]

    LIVEKV_HD static size_t bytes(int32_t d) {
        return static_cast<size_t>(64 * (d + 2) + 36 * d + 128 * kv_ceil_div(d, 32));
    }
    SIMT_MEMBER static value_tile_memory at(uint8_t * memory, int32_t d) {
        return {simt::as<uint16_t>(memory), memory + 64 * (d + 2), simt::as<uint32_t>(memory + 64 * (d + 2) + 36 * d)};
    }
};

// Token t of a head, by one warp.
SIMT_FN void seal_token(const device_seal & s, const value_tile_memory & m, uint8_t * block, int32_t t) {
    const int32_t d = s.head_dim;
    const int32_t lane = simt::lane();
    const int32_t in_tile = t % kv_tile_tokens;
    const kv_block_header & h = s.v_header;
    uint32_t * const apart = m.apart + in_tile * kv_ceil_div(d, 32);
    const auto value = [&](int32_t c) -> uint32_t { return m.x[in_tile * (d + 2) + c]; };
    find_outliers(d, h.n_outliers, value, apart);

    const int32_t n_zero = t < s.n_sinks ? d : 0;  // a sink: all of it is stored elsewhere
    const bool published = s.method.scale_method == kv_method::scale::ema_minmax;
    const bool without_apart = h.has_centres != 0 && !published;
    const value_range r =
        range_of(0, d, n_zero, without_apart, published || without_apart ? INFINITY : 0.0f, value, apart);
    const kv_grid g = published       ? minmax_grid(r.low, r.high, h.bits)
                      : h.has_centres ? affine_grid(r.low, r.high, h.bits)
                                      : symmetric_grid(simt::larger(-r.low, r.high), h.bits);
    const uint16_t scale = f32_to_f16(g.scale);
    if (lane == 0) {
        put(block, s.v_map.scales, static_cast<size_t>(t), scale);
        if (h.has_centres) {
            put(block, s.v_map.centres, static_cast<size_t>(t), static_cast<int8_t>((1 << (h.bits - 1)) - g.zero));
        }
    }
    size_t listed = static_cast<size_t>(t) * h.n_outliers;
    for (int32_t first = 0; first < d; first += 32) {
        const int32_t c = first + lane;
        const uint32_t word = apart[first / 32];
        const bool taken = (word >> lane & 1u) != 0;
        if (c < d) {
            const float x = simt::to_float(static_cast<uint16_t>(value(c)));
            m.codes[c * 36 + in_tile] = static_cast<uint8_t>(stored_code(g, h, taken ? 0.0f : x));
            if (taken) {
                const size_t at = listed + static_cast<size_t>(simt::popcount(word & ((1u << lane) - 1u)));
                put(block, s.v_map.outliers, at, outlier_rest(g, h, scale, x));
                if (s.v_map.index_bytes == 2) {
                    put(block, s.v_map.index, at, static_cast<uint16_t>(c));
                } else {
                    put(block, s.v_map.index, at, static_cast<uint8_t>(c));
                }
            }
        }
        listed += static_cast<size_t>(simt::popcount(word));
    }
}

SIMT_FN void seal_value_tile(const device_seal & s, int32_t tile, int32_t head) {
    const int32_t d = s.head_dim;
    const int32_t first = tile * kv_tile_tokens;
    const int32_t n = s.n_tokens - first < kv_tile_tokens ? s.n_tokens - first : kv_tile_tokens;
    const value_tile_memory m = value_tile_memory::at(simt::shared(), d);
    const size_t row = static_cast<size_t>(s.n_head_kv) * static_cast<size_t>(d);
    const uint16_t * const from = s.v + static_cast<size_t>(first) * row + static_cast<size_t>(head * d);
    for (int32_t i = simt::thread(); i < n * (d / 2); i += seal_threads) {
        const int32_t t = i / (d / 2);
        const int32_t c = i % (d / 2) * 2;
        const auto * const p = simt::as<uint32_t>(from + static_cast<size_t>(t) * row + c);
        *simt::as<uint32_t>(m.x + t * (d + 2) + c) = first + t >= s.n_sinks ? *p : 0u;
    }
    simt::sync();
    uint8_t * const block = s.v_blocks + static_cast<size_t>(head) * s.v_map.bytes;
    for (int32_t t = simt::warp(); t < n; t += seal_warps) {
        seal_token(s, m, block, first + t);
    }
    simt::sync();
    const int32_t n_words = brick_words(s.v_header.bits);
    const int32_t n_quads = kv_value_tile_quads(s.n_tokens, tile);
    const size_t first_brick = kv_value_tile_brick(d, tile);
    for (int32_t i = simt::thread(); i < kv_ceil_div(d, 16) * n_quads * n_words; i += seal_threads) {
        const int32_t w = i % n_words;
        const int32_t quad = i / n_words % n_quads;
        const int32_t sixteen = i / n_words / n_quads;
        const uint32_t known = n - 4 * quad >= 4 ? 0xffffffffu : (1u << (8 * (n - 4 * quad))) - 1u;
        const auto channel = [&](int32_t r) -> uint32_t {
            const int32_t c = 16 * sixteen + r;
            return c < d ? *simt::as<uint32_t>(m.codes + c * 36 + 4 * quad) & known : 0u;
        };
        put(block, s.v_map.codes, (first_brick * static_cast<size_t>(n_words)) + static_cast<size_t>(i),
            brick_word(s.v_header.bits, w, channel));
    }
    if (tile == 0) {
        write_frame(s.v_header, s.v_map, block);
    }
}

}  // namespace livekv::device
