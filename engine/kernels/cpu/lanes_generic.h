#pragma once

// Eight rows side by side in plain C++: what the kernels need of a vector unit. Included by generic.cpp only; the
// other levels' files define the same names with intrinsics.

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kv/f16.h"

namespace livekv {
namespace {

struct lanes {
    static constexpr int32_t n = 8;
    struct f32 {
        float x[n];
    };
    struct i32 {
        int32_t x[n];
    };
    using dot_sum = i32;

    template <typename F>
    static f32 each(F f) {
        f32 r;
        for (int32_t i = 0; i < n; ++i) {
            r.x[i] = f(i);
        }
        return r;
    }

    static f32 load(const float * p) {
        return each([&](int32_t i) { return p[i]; });
    }
    static void store(float * p, f32 a) { std::memcpy(p, a.x, sizeof(a.x)); }
    static f32 set(float a) {
        return each([&](int32_t) { return a; });
    }
    static f32 add(f32 a, f32 b) {
        return each([&](int32_t i) { return a.x[i] + b.x[i]; });
    }
    static f32 sub(f32 a, f32 b) {
        return each([&](int32_t i) { return a.x[i] - b.x[i]; });
    }
    static f32 mul(f32 a, f32 b) {
        return each([&](int32_t i) { return a.x[i] * b.x[i]; });
    }
    static f32 div(f32 a, f32 b) {
        return each([&](int32_t i) { return a.x[i] / b.x[i]; });
    }
    static f32 fma(f32 a, f32 b, f32 c) {
        return each([&](int32_t i) { return a.x[i] * b.x[i] + c.x[i]; });
    }
    static f32 max(f32 a, f32 b) {
        return each([&](int32_t i) { return a.x[i] > b.x[i] ? a.x[i] : b.x[i]; });
    }
    static f32 min(f32 a, f32 b) {
        return each([&](int32_t i) { return a.x[i] < b.x[i] ? a.x[i] : b.x[i]; });
    }
    static f32 abs(f32 a) {
        return each([&](int32_t i) { return a.x[i] < 0.0f ? -a.x[i] : a.x[i]; });
    }
    static bool any_greater(f32 a, f32 b) {
        bool any = false;
        for (int32_t i = 0; i < n; ++i) {
            any |= a.x[i] > b.x[i];
        }
        return any;
    }

    // Nearest integer, ties to even, of |a| < 2^22.
    static i32 round(f32 a) {
        i32 r;
        for (int32_t i = 0; i < n; ++i) {
            r.x[i] = static_cast<int32_t>((a.x[i] + 12582912.0f) - 12582912.0f);
        }
        return r;
    }
    static f32 to_float(i32 a) {
        return each([&](int32_t i) { return static_cast<float>(a.x[i]); });
    }
    // x - floor(x).
    static f32 fraction(f32 x) {
        return each([&](int32_t i) { return x.x[i] - std::floor(x.x[i]); });
    }
    // a 2^floor(x) of a in [1, 2] and x <= 0; for x < -125 it may be anything from 0 to that.
    static f32 times_pow2(f32 a, f32 x) {
        return each([&](int32_t i) {
            if (x.x[i] < -125.0f) {
                return 0.0f;
            }
            uint32_t bits;
            std::memcpy(&bits, &a.x[i], sizeof(bits));
            bits += static_cast<uint32_t>(static_cast<int32_t>(std::floor(x.x[i]))) << 23;
            float f;
            std::memcpy(&f, &bits, sizeof(f));
            return f;
        });
    }
    // The low bytes of a, b, c, d side by side in each lane.
    static void store_bytes(void * p, i32 a, i32 b, i32 c, i32 d) {
        uint32_t r[n];
        for (int32_t i = 0; i < n; ++i) {
            r[i] = (static_cast<uint32_t>(a.x[i]) & 255u) | (static_cast<uint32_t>(b.x[i]) & 255u) << 8 |
                   (static_cast<uint32_t>(c.x[i]) & 255u) << 16 | (static_cast<uint32_t>(d.x[i]) & 255u) << 24;
        }
        std::memcpy(p, r, sizeof(r));
    }

    // Dot products of four unsigned and four signed bytes a lane, summed into acc. The levels differ in how much acc
    // holds: where that is 16 bits, callers sum at most eight dots of four-bit codes, four of five-bit ones or two of
    // six-bit ones, which keeps every pair of products in them (8 * 2 * 255 * 8 = 32640).
    static constexpr bool sums_of_16_bits = true;
    static dot_sum dot_zero() { return {}; }
    struct bytes {
        uint32_t x[n];
    };
    static bytes load_bytes(const void * p) {
        bytes r;
        std::memcpy(r.x, p, sizeof(r.x));
        return r;
    }
    static bytes set_bytes(const void * four) {
        bytes r;
        for (int32_t i = 0; i < n; ++i) {
            std::memcpy(&r.x[i], four, 4);
        }
        return r;
    }
    // Each byte moved down by shift bits (up when it is negative), and of that the bits of mask, none of which comes
    // from another byte.
    static bytes field(bytes a, int32_t shift, int32_t mask) {
        bytes r;
        for (int32_t i = 0; i < n; ++i) {
            const uint32_t moved = shift >= 0 ? a.x[i] >> shift : a.x[i] << -shift;
            r.x[i] = moved & static_cast<uint32_t>(mask) * 0x01010101u;
        }
        return r;
    }
    static bytes join(bytes a, bytes b) {
        for (int32_t i = 0; i < n; ++i) {
            a.x[i] |= b.x[i];
        }
        return a;
    }
    static constexpr int32_t product_rows = 1;  // rows that products take at once
    static dot_sum dot(dot_sum acc, bytes u, bytes s) {
        for (int32_t i = 0; i < n; ++i) {
            for (int32_t k = 0; k < 4; ++k) {
                acc.x[i] += static_cast<int32_t>((u.x[i] >> (8 * k)) & 255u) * static_cast<int8_t>(s.x[i] >> (8 * k));
            }
        }
        return acc;
    }
    static i32 dot_i32(dot_sum acc, int16_t times) {  // a lane's sum, times 1 or 16
        for (int32_t & x : acc.x) {
            x *= times;
        }
        return acc;
    }
    static i32 add_i32(i32 a, i32 b) {
        for (int32_t i = 0; i < n; ++i) {
            a.x[i] += b.x[i];
        }
        return a;
    }
    static f32 dot_float(dot_sum acc) { return to_float(acc); }

    static f32 load_i8(const int8_t * p) {
        return each([&](int32_t i) { return static_cast<float>(p[i]); });
    }
    static f32 load_u8(const uint8_t * p) {
        return each([&](int32_t i) { return static_cast<float>(p[i]); });
    }
    static f32 load_f16(const void * p) {
        return each([&](int32_t i) {
            uint16_t h;
            std::memcpy(&h, static_cast<const char *>(p) + 2 * i, sizeof(h));
            return f16_to_f32(h);
        });
    }
    // The float at p in every lane.
    static f32 set_word(const void * p) {
        float f;
        std::memcpy(&f, p, sizeof(f));
        return set(f);
    }
    static float sum(f32 a) {
        return ((a.x[0] + a.x[4]) + (a.x[2] + a.x[6])) + ((a.x[1] + a.x[5]) + (a.x[3] + a.x[7]));
    }
    static float largest(f32 a) {
        float m = a.x[0];
        for (int32_t i = 1; i < n; ++i) {
            m = a.x[i] > m ? a.x[i] : m;
        }
        return m;
    }
    // Of four vectors.
    static void sum_4(const f32 * v, float * to) {
        for (int32_t i = 0; i < 4; ++i) {
            to[i] = sum(v[i]);
        }
    }
    static void largest_4(const f32 * v, float * to) {
        for (int32_t i = 0; i < 4; ++i) {
            to[i] = largest(v[i]);
        }
    }
    // The low bytes of 32 / n vectors, one after the other.
    static void store_32_bytes(uint8_t * p, const i32 * v) {
        for (int32_t i = 0; i < 32; ++i) {
            p[i] = static_cast<uint8_t>(v[i / n].x[i % n]);
        }
    }
    // As unpack, with a bias of 0 or half the range: n_bricks bricks of 16 things, to_next bytes apart, into two
    // vectors, things in an order that suits the level. settle turns sums of dot products with these into those of the
    // codes; reorder brings two vectors of numbers that lie like the things into the things' own order, and back.
    static constexpr int32_t n_bricks = 1;
    template <int32_t bits>
    static void unpack_bricks(const uint8_t * brick, size_t /* to_next */, int32_t plane, int32_t bias, bytes * to) {
        uint8_t all[64];
        unpack(brick, 1, bits, plane, bias, all);
        to[0] = load_bytes(all);
        to[1] = load_bytes(all + 32);
    }
    template <int32_t bits>
    static void settle(dot_sum * /* sums */, int32_t /* bias */) {}
    static void reorder(f32 * /* numbers */) {}

    // Plane `plane` (0: the lower four bits or all there are, 1: the upper four of eight) of n_bricks bricks of codes,
    // minus bias, one byte a code.
    static void unpack(const uint8_t * bricks, size_t n_bricks, int32_t bits, int32_t plane, int32_t bias,
                       uint8_t * to) {
        for (size_t b = 0; b < n_bricks; ++b, bricks += 8 * bits, to += 64) {
            for (int32_t i = 0; i < 64; ++i) {
                int32_t u = 0;
                switch (bits) {
                    case 2:
                    case 3:
                        u = (bricks[i % 16] >> (2 * (i / 16))) & 3;
                        break;
                    case 8:
                        u = (bricks[i] >> (4 * plane)) & 15;
                        break;
                    default:
                        u = (bricks[i % 32] >> (4 * (i / 32))) & 15;
                }
                if (bits == 3 || bits == 5) {
                    u |= ((bricks[8 * (bits - 1) + i / 8] >> (i % 8)) & 1) << (bits - 1);
                } else if (bits == 6) {
                    u |= ((bricks[32 + i % 16] >> (2 * (i / 16))) & 3) << 4;
                }
                to[i] = static_cast<uint8_t>(u - bias);
            }
        }
    }

    // to[0 ... 3] += from[0 ... 3] * x
    static void add_scaled_4(float * to, const float * from, float x) {
        for (int32_t i = 0; i < 4; ++i) {
            to[i] = from[i] * x + to[i];
        }
    }
    // Four rows of 4 numbers, from_stride apart, to four rows of their columns.
    static void transpose_4(const float * from, int32_t from_stride, float * to, int32_t to_stride) {
        for (int32_t i = 0; i < 4; ++i) {
            for (int32_t k = 0; k < 4; ++k) {
                to[k * to_stride + i] = from[i * from_stride + k];
            }
        }
    }
    // 2 n rows of 4 numbers to their four columns.
    static void columns_4(const float * from, f32 (*to)[2]) {
        for (int32_t i = 0; i < 2 * n; ++i) {
            for (int32_t k = 0; k < 4; ++k) {
                to[k][i / n].x[i % n] = from[4 * i + k];
            }
        }
    }
    // Rows of 4 numbers: to[t] = sum over i < n of from[c] * x[i], places[i] = t << 11 | c, for the t there are, which
    // ascend.
    static void sum_at_places_4(const float * x, const uint16_t * places, int32_t n, const float * from, float * to) {
        f32 sum = set(0.0f);
        int32_t before = 0;
        for (int32_t i = 0; i < n; ++i) {
            const int32_t t = places[i] >> 11;
            for (int32_t k = 0; k < 4; ++k) {
                sum.x[k] = from[4 * (places[i] & 0x7ff) + k] * x[i] + (t == before ? sum.x[k] : 0.0f);
                to[4 * t + k] = sum.x[k];
            }
            before = t;
        }
    }

    static void to_f32(const uint16_t * from, float * to, size_t count) {
        for (size_t i = 0; i < count; ++i) {
            to[i] = f16_to_f32(from[i]);
        }
    }
    // Whole vectors: reads and writes up to n - 1 numbers more than count.
    static void to_f32_whole(const uint16_t * from, float * to, size_t count) {
        to_f32(from, to, (count + n - 1) / n * n);
    }
    static bool to_f16(const float * from, uint16_t * to, size_t count) {
        bool finite = true;
        for (size_t i = 0; i < count; ++i) {
            to[i] = f32_to_f16(from[i]);
            finite &= (to[i] & 0x7c00u) != 0x7c00u;
        }
        return finite;
    }
};

}  // namespace
}  // namespace livekv
