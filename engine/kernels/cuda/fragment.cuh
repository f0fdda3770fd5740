#pragma once

// From codes to what the tensor cores take, without a conversion instruction a code: a half with exponent 2^10 counts
// in ones, so 0x6400 | u is 1024 + u. What a lane reads of a brick are the words of two rows, r and r + 8 (brick.h).
//
//   0x6400 | u               - (1024 + mid)   = u - mid          u in the lowest bits of the half
//   (0x6400 | 16 u) / 16     - (64 + mid)     = u - mid          u four bits higher: no shift for it
//
// Both are exact. Then one fused step: scale * (u - mid) + scale * centre.

#include "kernels/cuda/brick.h"
#include "kernels/cuda/simt.h"

namespace livekv::device {

// The words of a brick a lane needs for rows r and r + 8 of 16.
template <int32_t bits>
struct brick_part {
    static constexpr int32_t n_words = bits == 3 || bits == 5 ? 3 : bits == 6 || bits == 8 ? 2 : 1;
    uint32_t w[n_words];

    SIMT_MEMBER static brick_part zeros() { return {}; }
    // From global memory, each once.
    SIMT_MEMBER static brick_part load(const uint8_t * brick, int32_t r) {
        brick_part p;
        SIMT_UNROLL
        for (int32_t i = 0; i < n_words; ++i) {
            p.w[i] = simt::load_once(brick + offset_of(i, r));
        }
        return p;
    }
    // From shared memory.
    SIMT_MEMBER static brick_part read(const uint8_t * brick, int32_t r) {
        brick_part p;
        SIMT_UNROLL
        for (int32_t i = 0; i < n_words; ++i) {
            p.w[i] = *simt::as<uint32_t>(brick + offset_of(i, r));
        }
        return p;
    }

    // Code minus 2^(bits-1), as pairs of halves: row r columns 0 and 2, row r + 8 the same, row r columns 1 and 3, row
    // r + 8 the same. Whoever multiplies orders its columns alike.
    SIMT_MEMBER void centred(int32_t r, uint32_t (&a)[4]) const {
        if constexpr (bits == 4) {
            constexpr uint32_t minus_1032 = 0xe408e408u;
            constexpr uint32_t sixteenth = 0x2c002c00u;
            constexpr uint32_t minus_72 = 0xd480d480u;
            const uint32_t high = w[0] >> 8;
            a[0] = simt::add_halves(simt::and_or(w[0], 0x000f000fu, 0x64006400u), minus_1032);
            a[1] = simt::fma_halves(simt::and_or(w[0], 0x00f000f0u, 0x64006400u), sixteenth, minus_72);
            a[2] = simt::add_halves(simt::and_or(high, 0x000f000fu, 0x64006400u), minus_1032);
            a[3] = simt::fma_halves(simt::and_or(high, 0x00f000f0u, 0x64006400u), sixteenth, minus_72);
        } else {
            // -(1024 + mid): the sign, and mid in ones
            constexpr uint32_t minus_middle = (0xe400u + (1u << (bits - 1))) * 0x00010001u;
            const uint32_t low = row(r, 0);
            const uint32_t high = row(r, 1);
            a[0] = simt::add_halves(simt::bytes_of(low, 0x64u, 0x4240u), minus_middle);
            a[1] = simt::add_halves(simt::bytes_of(high, 0x64u, 0x4240u), minus_middle);
            a[2] = simt::add_halves(simt::bytes_of(low, 0x64u, 0x4341u), minus_middle);
            a[3] = simt::add_halves(simt::bytes_of(high, 0x64u, 0x4341u), minus_middle);
        }
    }

  private:
    // Bytes from the brick's start to this part's word i.
    SIMT_MEMBER static int32_t offset_of(int32_t i, int32_t r) {
        if constexpr (bits == 8) {
            return 4 * (r + 8 * i);
        }
        if constexpr (bits == 6) {
            return i == 0 ? 4 * r : 32 + 4 * (r % 4);
        }
        return i > 0 ? 8 * (bits - 1) + 4 * (i - 1) : 4 * (bits == 2 || bits == 3 ? r % 4 : r);
    }

    // The codes of row r + 8 * half, a byte each; r < 8.
    SIMT_MEMBER uint32_t row(int32_t r, int32_t half) const {
        if constexpr (bits == 8) {
            return w[half];
        }
        constexpr int32_t base = bits == 2 || bits == 3 ? 2 : 4;
        uint32_t x = base == 2 ? w[0] >> (2 * (r / 4 + 2 * half)) & 0x03030303u : w[0] >> (4 * half) & 0x0f0f0f0fu;
        if constexpr (bits == 3 || bits == 5) {
            const uint32_t four = w[1 + half] >> (4 * r) & 15u;
            x |= (four * 0x00204081u & 0x01010101u) << base;
        }
        if constexpr (bits == 6) {
            x |= (w[1] >> (2 * (r / 4 + 2 * half)) & 0x03030303u) << 4;
        }
        return x;
    }
};

// scale * x + offset for a fragment whose columns 0, 2 and 1, 3 have these grids.
SIMT_FN void scaled(uint32_t (&a)[4], const simt::four_words & grid) {
    a[0] = simt::fma_halves(a[0], grid.w[0], grid.w[2]);
    a[1] = simt::fma_halves(a[1], grid.w[0], grid.w[2]);
    a[2] = simt::fma_halves(a[2], grid.w[1], grid.w[3]);
    a[3] = simt::fma_halves(a[3], grid.w[1], grid.w[3]);
}

}  // namespace livekv::device
