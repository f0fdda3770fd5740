#pragma once

// Blocks whose channels have a scale each (kv_block.h, version 3), a tile of tokens at a time as floats, and keys
// turned by their positions: for both attention of rows side by side and of a few rows. Internal linkage.

#include "kernels/attention.h"
#include "kernels/cpu/block_reader.h"

namespace livekv {
namespace {

using f32 = lanes::f32;

// A tile's floats lie [channel, token] for what turns keys, so that lanes are tokens.
struct channel_scratch {
    float * x = nullptr;         // [head_dim, kv_tile_tokens] of keys
    float * scales = nullptr;    // [head_dim]
    float * middles = nullptr;   // [head_dim]
    float * base_cos = nullptr;  // [head_dim / 2] of a tile's first position
    float * base_sin = nullptr;
    uint8_t * codes = nullptr;  // [kv_tile_tokens * head_dim]

    // take(n): n floats more of the scratch.
    template <typename F>
    void place(size_t d, F take) {
        x = take(kv_tile_tokens * d);
        scales = take(d);
        middles = take(d);
        base_cos = take(d);
        base_sin = take(d);
        codes = reinterpret_cast<uint8_t *>(take(kv_tile_tokens * d / sizeof(float)));
    }
};

// f(quad, numbers) for each quad of channels of a tile: [kv_tile_tokens, 4] numbers that scales are still to be
// multiplied into, of tokens beyond the block's whatever comes.
template <typename F>
inline void each_quad(const block_reader & block, int32_t tile, int32_t d, const channel_scratch & s, F f) {
    const int32_t n_halves = block.key_sixteens(tile);
    const uint8_t * bricks = block.class_bricks(tile);
    each_class(block.widths(), d / 4, [&](int32_t width, int32_t first, int32_t last) {
        const size_t n_codes = static_cast<size_t>(last - first) * 64;
        const uint8_t * codes[2] = {s.codes, s.codes + n_codes};
        for (int32_t half = 0; half < 2; ++half) {
            const uint8_t * const from = bricks + (half < n_halves ? half : 0) * block.class_row_bytes();
            if (width >= 8) {
                codes[half] = from;
            } else {
                lanes::unpack(from, static_cast<size_t>(last - first), width, 0, 0, s.codes + half * n_codes);
            }
        }
        const f32 middle = lanes::set(static_cast<float>(1 << (width - 1)));
        for (int32_t quad = first; quad < last; ++quad) {
            float numbers[4 * kv_tile_tokens];
            for (int32_t half = 0; half < 2; ++half) {
                float * const to = numbers + half * 64;
                if (width == 16) {
                    lanes::to_f32(reinterpret_cast<const uint16_t *>(codes[half]) + (quad - first) * 64, to, 64);
                    continue;
                }
                const uint8_t * const u = codes[half] + (quad - first) * 64;
                for (int32_t i = 0; i < 64; i += lanes::n) {
                    lanes::store(to + i, lanes::sub(lanes::load_u8(u + i), middle));
                }
            }
            f(quad, numbers);
        }
        bricks += static_cast<size_t>(last - first) * 8 * static_cast<size_t>(width);
    });
}

// A tile of a block, token after token: rows [kv_tile_tokens, stride].
inline void channel_rows(const block_reader & block, int32_t tile, int32_t d, const channel_scratch & s, float * rows,
                         size_t stride) {
    lanes::to_f32(block.key_scales(0), s.scales, static_cast<size_t>(d));
    each_quad(block, tile, d, s, [&](int32_t quad, float * numbers) {
        float four[16];
        for (int32_t i = 0; i < 16; ++i) {
            four[i] = s.scales[4 * quad + i % 4];
        }
        const f32 scales = lanes::load(four);
        for (int32_t i = 0; i < 4 * kv_tile_tokens; i += lanes::n) {
            lanes::store(numbers + i, lanes::mul(lanes::load(numbers + i), scales));
        }
        for (int32_t t = 0; t < kv_tile_tokens; ++t) {
            __builtin_memcpy(rows + static_cast<size_t>(t) * stride + 4 * quad, numbers + 4 * t, 4 * sizeof(float));
        }
    });
}

// A tile of a block's keys, channel after channel: s.x.
inline void channel_columns(const block_reader & block, int32_t tile, int32_t d, const channel_scratch & s) {
    lanes::to_f32(block.key_scales(0), s.scales, static_cast<size_t>(d));
    each_quad(block, tile, d, s, [&](int32_t quad, const float * numbers) {
        for (int32_t t = 0; t < kv_tile_tokens; t += 2 * lanes::n) {
            f32 columns[4][2];
            lanes::columns_4(numbers + 4 * t, columns);
            for (int32_t i = 0; i < 4; ++i) {
                const f32 scale = lanes::set(s.scales[4 * quad + i]);
                float * const to = s.x + (4 * quad + i) * kv_tile_tokens + t;
                lanes::store(to, lanes::mul(columns[i][0], scale));
                lanes::store(to + lanes::n, lanes::mul(columns[i][1], scale));
            }
        }
    });
}

// The same of rows [kv_tile_tokens, stride], as they are.
inline void columns_of_rows(const float * rows, size_t stride, int32_t d, const channel_scratch & s) {
    for (int32_t t = 0; t < kv_tile_tokens; t += 4) {
        for (int32_t c = 0; c < d; c += 4) {
            lanes::transpose_4(rows + static_cast<size_t>(t) * stride + c, static_cast<int32_t>(stride),
                               s.x + c * kv_tile_tokens + t, kv_tile_tokens);
        }
    }
}

// The turns of a position, from its digits.
inline void turn_of(const rope_turns & turns, int64_t position, const channel_scratch & s) {
    for (int32_t i = 0; i < turns.n_pairs; ++i) {
        s.base_cos[i] = turns.magnitude;
        s.base_sin[i] = 0.0f;
    }
    const size_t each = static_cast<size_t>(rope_tile) * static_cast<size_t>(turns.n_pairs);
    for (size_t digit = 0; position > 0; ++digit, position /= rope_tile) {
        if (position % rope_tile == 0) {
            continue;
        }
        const size_t at = digit * each + static_cast<size_t>(position % rope_tile) * static_cast<size_t>(turns.n_pairs);
        const float * const digit_cos = turns.digit_cos + at;
        const float * const digit_sin = turns.digit_sin + at;
        for (int32_t i = 0; i < turns.n_pairs; ++i) {
            const float x = s.base_cos[i];
            const float y = s.base_sin[i];
            s.base_cos[i] = x * digit_cos[i] - y * digit_sin[i];
            s.base_sin[i] = x * digit_sin[i] + y * digit_cos[i];
        }
    }
}

// Turns s.x, whose first token has this position.
inline void turn_columns(const rope_turns & turns, int64_t position, const channel_scratch & s) {
    turn_of(turns, position, s);
    for (int32_t i = 0; i < turns.n_pairs; ++i) {
        float * const a = s.x + (turns.neighbours ? 2 * i : i) * kv_tile_tokens;
        float * const b = turns.neighbours ? a + kv_tile_tokens : a + turns.n_pairs * kv_tile_tokens;
        const f32 base_cos = lanes::set(s.base_cos[i]);
        const f32 base_sin = lanes::set(s.base_sin[i]);
        for (int32_t t = 0; t < kv_tile_tokens; t += lanes::n) {
            const f32 tile_cos = lanes::load(turns.tile_cos + i * rope_tile + t);
            const f32 tile_sin = lanes::load(turns.tile_sin + i * rope_tile + t);
            const f32 cos = lanes::sub(lanes::mul(base_cos, tile_cos), lanes::mul(base_sin, tile_sin));
            const f32 sin = lanes::fma(base_cos, tile_sin, lanes::mul(base_sin, tile_cos));
            const f32 x = lanes::load(a + t);
            const f32 y = lanes::load(b + t);
            lanes::store(a + t, lanes::sub(lanes::mul(x, cos), lanes::mul(y, sin)));
            lanes::store(b + t, lanes::fma(x, sin, lanes::mul(y, cos)));
        }
    }
}

}  // namespace
}  // namespace livekv
