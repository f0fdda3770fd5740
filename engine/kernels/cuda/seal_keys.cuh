#pragma once

// Keys of a slab of channels: [n_tokens, slab] values in shared memory, a warp a channel, lanes along the tokens.
// Outliers are listed by token across channels, which no slab knows alone: each leaves its own, and the last of a head
// (a ticket) puts them in order.

#include "kernels/cuda/brick.h"
#include "kernels/cuda/seal_line.cuh"
#include "kv/kv_ema.h"

namespace livekv::device {

struct key_slab_memory {
    uint16_t * x;      // [n_tokens, slab + 2] f16; the pitch keeps the lanes of a column in different banks
    uint8_t * codes;   // [n_tokens, slab + 4]
    uint32_t * apart;  // [slab, n_tiles]

    LIVEKV_HD static size_t bytes(int32_t n, int32_t slab) {
        return kv_align(static_cast<size_t>(n) * static_cast<size_t>(2 * (slab + 2)), 16) +
               kv_align(static_cast<size_t>(n) * static_cast<size_t>(slab + 4), 16) +
               static_cast<size_t>(slab * kv_ceil_div(n, 32)) * 4;
    }
    SIMT_MEMBER static key_slab_memory at(uint8_t * memory, int32_t n, int32_t slab) {
        const size_t x_bytes = kv_align(static_cast<size_t>(n) * static_cast<size_t>(2 * (slab + 2)), 16);
        const size_t code_bytes = kv_align(static_cast<size_t>(n) * static_cast<size_t>(slab + 4), 16);
        return {simt::as<uint16_t>(memory), memory + x_bytes, simt::as<uint32_t>(memory + x_bytes + code_bytes)};
    }
};

SIMT_FN kv_grid key_grid(const kv_method & method, const kv_block_header & h, const channel_ema & e, value_range r) {
    switch (method.scale_method) {
        case kv_method::scale::ema_absmax:
            return symmetric_grid(e.high, h.bits);
        case kv_method::scale::ema_minmax:
            return minmax_grid(e.low, e.high, h.bits);
        default:
            break;
    }
    if (method.scale_method == kv_method::scale::ema_clipped) {
        r.low = std::clamp(r.low, -e.bound, e.bound);
        r.high = std::clamp(r.high, -e.bound, e.bound);
    }
    return h.has_centres ? affine_grid(r.low, r.high, h.bits) : symmetric_grid(simt::larger(-r.low, r.high), h.bits);
}

// Channel c of a head, the slab's channel i, by one warp.
SIMT_FN void seal_channel(const device_seal & s, const key_slab_memory & m, int32_t head, int32_t c, int32_t i) {
    const int32_t n = s.n_tokens;
    const int32_t d = s.head_dim;
    const int32_t lane = simt::lane();
    const kv_block_header & h = s.k_header;
    uint32_t * const apart = m.apart + i * kv_ceil_div(n, 32);
    const auto value = [&](int32_t t) -> uint32_t { return m.x[t * (s.slab + 2) + i]; };
    find_outliers(n, h.n_outliers, value, apart);

    channel_ema e = {0.0f, 0.0f, INFINITY};
    const bool signs_apart = s.method.scale_method == kv_method::scale::ema_minmax;
    const size_t step = static_cast<size_t>(d);
    const size_t line = static_cast<size_t>(head) * step + static_cast<size_t>(c);
    const size_t at = (signs_apart ? 2 : 1) * static_cast<size_t>(head) * step + static_cast<size_t>(c);
    if (s.old_state) {
        e.high = s.state_before(at);
        e.low = signs_apart ? s.state_before(at + step) : 0.0f;
    }
    if (!s.new_state) {
        e.bound = s.bounds[line];
    }
    if (s.new_state) {
        const value_range all = range_of(0, n, 0, false, INFINITY, value, apart);
        e = ema_after(s.method, e, all.high, all.low);
        if (lane == 0) {
            s.put_state(at, e.high);
            if (signs_apart) {
                s.put_state(at + step, e.low);
            }
            s.bounds[line] = e.bound;
        }
    }
    if (!s.k_blocks) {
        return;
    }
    uint8_t * const block = s.k_blocks + static_cast<size_t>(head) * s.k_map.bytes;
    uint32_t * const found = s.found + line * h.n_outliers;
    int32_t n_found = 0;
    for (int32_t first = 0, group = 0; first < n; first += h.group, ++group) {
        const int32_t last = first + h.group < n ? first + h.group : n;
        value_range r = {0.0f, 0.0f};
        if (s.method.own_range()) {
            r = range_of(first, last, s.n_sinks, h.has_centres != 0, h.has_centres ? INFINITY : 0.0f, value, apart);
        }
        const kv_grid g = key_grid(s.method, h, e, r);
        const uint16_t scale = f32_to_f16(g.scale);
        const size_t slot = static_cast<size_t>(group) * step + static_cast<size_t>(c);
        if (lane == 0) {
            put(block, s.k_map.scales, slot, scale);
            if (h.has_centres) {
                put(block, s.k_map.centres, slot, static_cast<int8_t>((1 << (h.bits - 1)) - g.zero));
            }
        }
        for (int32_t from = first; from < last; from += 32) {  // groups begin with a tile
            const int32_t t = from + lane;
            const uint32_t word = apart[from / 32];
            const bool taken = (word >> lane & 1u) != 0;
            if (t < last) {
                const float x = simt::to_float(static_cast<uint16_t>(value(t)));
                m.codes[t * (s.slab + 4) + i] = static_cast<uint8_t>(stored_code(g, h, taken ? 0.0f : x));
                if (taken) {
                    const int32_t j = n_found + simt::popcount(word & ((1u << lane) - 1u));
                    found[j] = static_cast<uint32_t>(t) << 16 | outlier_rest(g, h, scale, x);
                }
            }
            n_found += simt::popcount(word);
        }
    }
}

// The slab's codes, word by word.
SIMT_FN void write_key_codes(const device_seal & s, const key_slab_memory & m, uint8_t * block, int32_t first_channel,
                             int32_t n_channels) {
    const int32_t n_words = brick_words(s.k_header.bits);
    const int32_t n_quads = n_channels / 4;
    const int32_t n_sixteens = kv_ceil_div(s.n_tokens, 16);
    for (int32_t i = simt::thread(); i < n_sixteens * n_quads * n_words; i += seal_threads) {
        const int32_t w = i % n_words;
        const int32_t quad = i / n_words % n_quads;
        const int32_t sixteen = i / n_words / n_quads;
        const auto row = [&](int32_t r) -> uint32_t {
            const int32_t t = 16 * sixteen + r;
            return t < s.n_tokens ? *simt::as<uint32_t>(m.codes + t * (s.slab + 4) + 4 * quad) : 0u;
        };
        const size_t brick = static_cast<size_t>(sixteen) * static_cast<size_t>(s.head_dim / 4) +
                             static_cast<size_t>(first_channel / 4 + quad);
        put(block, s.k_map.codes, brick * static_cast<size_t>(n_words) + static_cast<size_t>(w),
            brick_word(s.k_header.bits, w, row));
    }
}

// Sum of x over the block's threads before this one; total: over all. scratch: [seal_warps + 1].
SIMT_FN uint32_t sum_before(uint32_t x, uint32_t * scratch, uint32_t & total) {
    uint32_t sum = x;
    for (int32_t step = 1; step < 32; step *= 2) {
        const uint32_t before = simt::shuffle_up(sum, step);
        sum += simt::lane() >= step ? before : 0u;
    }
    if (simt::lane() == 31) {
        scratch[simt::warp()] = sum;
    }
    simt::sync();
    uint32_t before = 0;
    total = 0;
    for (int32_t w = 0; w < seal_warps; ++w) {
        before += w < simt::warp() ? scratch[w] : 0u;
        total += scratch[w];
    }
    simt::sync();
    return before + sum - x;
}

// All outliers of a head by token and channel, from what the slabs left. memory: [n_tokens + seal_warps + 1] words.
SIMT_FN void list_key_outliers(const device_seal & s, int32_t head, int32_t n_slabs, uint32_t * memory) {
    const int32_t n = s.n_tokens;
    const int32_t k = s.k_header.n_outliers;
    uint32_t * const scratch = memory;
    uint32_t * const first_of = memory + seal_warps + 1;  // [n_tokens] outliers before each token
    const uint32_t * const apart =
        s.apart + static_cast<size_t>(head) * static_cast<size_t>(n) * static_cast<size_t>(n_slabs);
    uint8_t * const block = s.k_blocks + static_cast<size_t>(head) * s.k_map.bytes;
    uint32_t n_before = 0;
    for (int32_t from = 0; from < n; from += seal_threads) {
        const int32_t t = from + simt::thread();
        uint32_t mine = 0;
        for (int32_t slab = 0; slab < n_slabs && t < n; ++slab) {
            mine += static_cast<uint32_t>(simt::popcount(simt::load_fresh(apart + t * n_slabs + slab)));
        }
        uint32_t total = 0;
        const uint32_t before = sum_before(mine, scratch, total);
        if (t < n) {
            first_of[t] = n_before + before;
        }
        n_before += total;
    }
    simt::sync();
    for (int32_t tile = simt::thread(); tile <= s.k_map.n_tiles; tile += seal_threads) {
        const int32_t t = tile * kv_tile_tokens;
        put(block, s.k_map.tiles, static_cast<size_t>(tile),
            t < n ? first_of[t] : static_cast<uint32_t>(s.k_map.n_outlying));
    }
    const uint32_t * const found =
        s.found + static_cast<size_t>(head) * static_cast<size_t>(s.head_dim) * static_cast<size_t>(k);
    for (int32_t i = simt::thread(); i < s.head_dim * k; i += seal_threads) {
        const int32_t c = i / k;
        const uint32_t outlier = simt::load_fresh(found + i);
        const int32_t t = static_cast<int32_t>(outlier >> 16);
        uint32_t rank = first_of[t];
        for (int32_t slab = 0; slab < c / s.slab; ++slab) {
            rank += static_cast<uint32_t>(simt::popcount(simt::load_fresh(apart + t * n_slabs + slab)));
        }
        const uint32_t before = (1u << (c % s.slab)) - 1u;
        rank += static_cast<uint32_t>(simt::popcount(simt::load_fresh(apart + t * n_slabs + c / s.slab) & before));
        put(block, s.k_map.outliers, rank, static_cast<uint16_t>(outlier));
        put(block, s.k_map.index, rank, static_cast<uint16_t>(t % kv_tile_tokens << 11 | c));
    }
}

SIMT_FN void seal_key_slab(const device_seal & s, int32_t slab, int32_t head) {
    const int32_t n = s.n_tokens;
    const int32_t n_slabs = kv_ceil_div(s.head_dim, s.slab);
    const int32_t first_channel = slab * s.slab;
    const int32_t n_channels = s.head_dim - first_channel < s.slab ? s.head_dim - first_channel : s.slab;
    const key_slab_memory m = key_slab_memory::at(simt::shared(), n, s.slab);
    const size_t row = static_cast<size_t>(s.n_head_kv) * static_cast<size_t>(s.head_dim);
    const uint16_t * const from = s.k + static_cast<size_t>(head * s.head_dim + first_channel);
    for (int32_t i = simt::thread(); i < n * (n_channels / 8); i += seal_threads) {
        const int32_t t = i / (n_channels / 8);
        const int32_t c = i % (n_channels / 8) * 8;
        simt::four_words eight = {};
        if (t >= s.n_sinks) {
            eight = *simt::as<simt::four_words>(from + static_cast<size_t>(t) * row + c);
        }
        for (int32_t j = 0; j < 4; ++j) {
            *simt::as<uint32_t>(m.x + t * (s.slab + 2) + c + 2 * j) = eight.w[j];
        }
    }
    simt::sync();
    for (int32_t i = simt::warp(); i < n_channels; i += seal_warps) {
        seal_channel(s, m, head, first_channel + i, i);
    }
    if (!s.k_blocks) {
        return;
    }
    simt::sync();
    uint8_t * const block = s.k_blocks + static_cast<size_t>(head) * s.k_map.bytes;
    write_key_codes(s, m, block, first_channel, n_channels);
    if (slab == 0) {
        write_frame(s.k_header, s.k_map, block);
    }
    if (s.k_header.n_outliers == 0) {
        return;
    }
    uint32_t * const apart = s.apart + static_cast<size_t>(head) * static_cast<size_t>(n * n_slabs);
    for (int32_t t = simt::thread(); t < n; t += seal_threads) {
        uint32_t word = 0;
        for (int32_t i = 0; i < n_channels; ++i) {
            word |= (m.apart[i * kv_ceil_div(n, 32) + t / 32] >> (t % 32) & 1u) << i;
        }
        apart[t * n_slabs + slab] = word;
    }
    simt::fence();
    simt::sync();
    auto * const memory = simt::as<uint32_t>(simt::shared());  // the values are no longer needed
    if (simt::thread() == 0) {
        memory[0] = simt::atomic_add(&s.tickets[head], 1);
    }
    simt::sync();
    const bool last = memory[0] == static_cast<uint32_t>(n_slabs - 1);
    simt::sync();
    if (last) {
        simt::fence();
        list_key_outliers(s, head, n_slabs, memory);
        if (simt::thread() == 0) {
            s.tickets[head] = 0;
        }
    }
}

}  // namespace livekv::device
