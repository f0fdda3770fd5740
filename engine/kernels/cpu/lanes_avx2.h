#pragma once

// Eight rows side by side with AVX2, FMA and F16C; see lanes_generic.h for what each name means.

#include "kernels/cpu/lanes_x86.h"

namespace livekv {
namespace {

struct lanes : lanes_of_4 {
    static constexpr int32_t n = 8;
    using f32 = __m256;
    using i32 = __m256i;
    using bytes = __m256i;
    using dot_sum = __m256i;  // two sums a lane in 16 bits: see dot_zero in lanes_generic.h

    static f32 load(const float * p) { return _mm256_loadu_ps(p); }
    static void store(float * p, f32 a) { _mm256_storeu_ps(p, a); }
    static f32 set(float a) { return _mm256_set1_ps(a); }
    static f32 add(f32 a, f32 b) { return _mm256_add_ps(a, b); }
    static f32 sub(f32 a, f32 b) { return _mm256_sub_ps(a, b); }
    static f32 mul(f32 a, f32 b) { return _mm256_mul_ps(a, b); }
    static f32 div(f32 a, f32 b) { return _mm256_div_ps(a, b); }
    static f32 fma(f32 a, f32 b, f32 c) { return _mm256_fmadd_ps(a, b, c); }
    static f32 max(f32 a, f32 b) { return _mm256_max_ps(a, b); }
    static f32 min(f32 a, f32 b) { return _mm256_min_ps(a, b); }
    static f32 abs(f32 a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
    static bool any_greater(f32 a, f32 b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0; }

    static i32 round(f32 a) { return _mm256_cvtps_epi32(a); }
    static f32 to_float(i32 a) { return _mm256_cvtepi32_ps(a); }
    static f32 fraction(f32 x) { return _mm256_sub_ps(x, _mm256_floor_ps(x)); }
    static f32 times_pow2(f32 a, f32 x) {
        const f32 lowest = _mm256_set1_ps(-125.0f);
        const i32 exponent = _mm256_cvttps_epi32(_mm256_floor_ps(_mm256_max_ps(x, lowest)));
        const i32 product = _mm256_add_epi32(_mm256_castps_si256(a), _mm256_slli_epi32(exponent, 23));
        return _mm256_and_ps(_mm256_castsi256_ps(product), _mm256_cmp_ps(x, lowest, _CMP_GE_OQ));
    }
    static void store_bytes(void * p, i32 a, i32 b, i32 c, i32 d) {
        const i32 low = _mm256_set1_epi32(255);
        const i32 ab = _mm256_or_si256(_mm256_and_si256(a, low), _mm256_slli_epi32(_mm256_and_si256(b, low), 8));
        const i32 cd = _mm256_or_si256(_mm256_slli_epi32(_mm256_and_si256(c, low), 16), _mm256_slli_epi32(d, 24));
        _mm256_storeu_si256(static_cast<__m256i *>(p), _mm256_or_si256(ab, cd));
    }

    static constexpr bool sums_of_16_bits = true;
    static dot_sum dot_zero() { return _mm256_setzero_si256(); }
    static bytes load_bytes(const void * p) { return _mm256_loadu_si256(static_cast<const __m256i *>(p)); }
    static bytes set_bytes(const void * four) {
        int32_t word;
        __builtin_memcpy(&word, four, sizeof(word));
        return _mm256_set1_epi32(word);
    }
    static bytes field(bytes a, int32_t shift, int32_t mask) {
        const bytes moved = shift >= 0 ? _mm256_srli_epi16(a, shift) : _mm256_slli_epi16(a, -shift);
        return _mm256_and_si256(moved, _mm256_set1_epi8(static_cast<char>(mask)));
    }
    static bytes join(bytes a, bytes b) { return _mm256_or_si256(a, b); }
    static constexpr int32_t product_rows = 4;
    static dot_sum dot(dot_sum acc, bytes u, bytes s) {
        // The addition in place, which the compiler may not move: gcc regroups long sums, spills every product before
        // the first, and copies each sum.
        __asm__("vpaddw %1, %0, %0" : "+x"(acc) : "x"(_mm256_maddubs_epi16(u, s)));
        return acc;
    }
    static i32 dot_i32(dot_sum acc, int16_t times) { return _mm256_madd_epi16(acc, _mm256_set1_epi16(times)); }
    static i32 add_i32(i32 a, i32 b) { return _mm256_add_epi32(a, b); }
    static f32 dot_float(dot_sum acc) { return to_float(dot_i32(acc, 1)); }

    static f32 load_i8(const int8_t * p) {
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(p))));
    }
    static f32 load_u8(const uint8_t * p) {
        return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(p))));
    }
    static f32 load_f16(const void * p) { return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i *>(p))); }
    static f32 set_word(const void * p) { return _mm256_broadcast_ss(static_cast<const float *>(p)); }
    static float sum(f32 a) {
        __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
        x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
    }
    static float largest(f32 a) {
        __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
        x = _mm_max_ps(x, _mm_movehl_ps(x, x));
        return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
    }
    static void sum_4(const f32 * v, float * to) { across_4(v, add, to); }
    static void largest_4(const f32 * v, float * to) { across_4(v, max, to); }
    static void store_32_bytes(uint8_t * p, const i32 * v) {
        const __m256i low = _mm256_set1_epi32(255);  // packing saturates: leave nothing to saturate
        const __m256i ab = _mm256_packus_epi32(_mm256_and_si256(v[0], low), _mm256_and_si256(v[1], low));
        const __m256i cd = _mm256_packus_epi32(_mm256_and_si256(v[2], low), _mm256_and_si256(v[3], low));
        const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        const __m256i all = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(ab, cd), order);
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), all);
    }

    // As unpack, one brick.
    template <int32_t bits>
    static void unpack_brick(const uint8_t * brick, int32_t plane, int32_t bias, bytes * to) {
        __m256i low;
        __m256i high;
        if constexpr (bits <= 3) {
            const __m256i both = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(brick)));
            const __m256i two = _mm256_set1_epi8(3);
            low = _mm256_and_si256(_mm256_srlv_epi64(both, _mm256_setr_epi64x(0, 0, 2, 2)), two);
            high = _mm256_and_si256(_mm256_srlv_epi64(both, _mm256_setr_epi64x(4, 4, 6, 6)), two);
        } else if constexpr (bits <= 6) {
            const __m256i packed = load_bytes(brick);
            low = _mm256_and_si256(packed, _mm256_set1_epi8(15));
            high = _mm256_and_si256(_mm256_srli_epi16(packed, 4), _mm256_set1_epi8(15));
        } else {
            const int shift = 4 * plane;
            low = _mm256_and_si256(_mm256_srli_epi16(load_bytes(brick), shift), _mm256_set1_epi8(15));
            high = _mm256_and_si256(_mm256_srli_epi16(load_bytes(brick + 32), shift), _mm256_set1_epi8(15));
        }
        if constexpr (bits == 3 || bits == 5) {
            const uint8_t * top = brick + 8 * (bits - 1);
            const char bit = static_cast<char>(1 << (bits - 1));
            low = _mm256_or_si256(low, spread_bits(top, bit));
            high = _mm256_or_si256(high, spread_bits(top + 4, bit));
        } else if constexpr (bits == 6) {
            bytes above[2];
            unpack_brick<2>(brick + 32, 0, 0, above);
            low = _mm256_or_si256(low, _mm256_slli_epi16(above[0], 4));
            high = _mm256_or_si256(high, _mm256_slli_epi16(above[1], 4));
        }
        const __m256i minus = _mm256_set1_epi8(static_cast<char>(bias));
        to[0] = _mm256_sub_epi8(low, minus);
        to[1] = _mm256_sub_epi8(high, minus);
    }

    static constexpr int32_t n_bricks = 1;
    template <int32_t bits>
    static void unpack_bricks(const uint8_t * brick, size_t /* to_next */, int32_t plane, int32_t bias, bytes * to) {
        unpack_brick<bits>(brick, plane, bias, to);
    }
    template <int32_t bits>
    static void settle(dot_sum * /* sums */, int32_t /* bias */) {}
    static void reorder(f32 * /* numbers */) {}

    static void unpack(const uint8_t * bricks, size_t n_bricks, int32_t bits, int32_t plane, int32_t bias,
                       uint8_t * to) {
        switch (bits) {
            case 2:
                return unpack_all<2>(bricks, n_bricks, plane, bias, to);
            case 3:
                return unpack_all<3>(bricks, n_bricks, plane, bias, to);
            case 4:
                return unpack_all<4>(bricks, n_bricks, plane, bias, to);
            case 5:
                return unpack_all<5>(bricks, n_bricks, plane, bias, to);
            case 6:
                return unpack_all<6>(bricks, n_bricks, plane, bias, to);
            default:
                return unpack_all<8>(bricks, n_bricks, plane, bias, to);
        }
    }

    // Things 0 ... 3 in the lower halves and 4 ... 7 in the upper, four rows of them turned at once.
    static void columns_4(const float * from, f32 (*to)[2]) {
        for (int32_t v = 0; v < 2; ++v, from += 32) {
            f32 x[4];
            for (int32_t i = 0; i < 4; ++i) {
                x[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(from + 4 * i)),
                                            _mm_loadu_ps(from + 4 * i + 16), 1);
            }
            const f32 low_01 = _mm256_unpacklo_ps(x[0], x[1]);
            const f32 low_23 = _mm256_unpacklo_ps(x[2], x[3]);
            const f32 high_01 = _mm256_unpackhi_ps(x[0], x[1]);
            const f32 high_23 = _mm256_unpackhi_ps(x[2], x[3]);
            to[0][v] = _mm256_shuffle_ps(low_01, low_23, 0x44);
            to[1][v] = _mm256_shuffle_ps(low_01, low_23, 0xee);
            to[2][v] = _mm256_shuffle_ps(high_01, high_23, 0x44);
            to[3][v] = _mm256_shuffle_ps(high_01, high_23, 0xee);
        }
    }

    static void to_f32_whole(const uint16_t * from, float * to, size_t count) {
        for (size_t i = 0; i < count; i += n) {
            store(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from + i))));
        }
    }
    static void to_f32(const uint16_t * from, float * to, size_t count) {
        size_t i = 0;
        for (; i + n <= count; i += n) {
            store(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from + i))));
        }
        for (; i < count; ++i) {
            to[i] = _cvtsh_ss(from[i]);
        }
    }
    static bool to_f16(const float * from, uint16_t * to, size_t count) {
        const __m128i exponent = _mm_set1_epi16(0x7c00);
        __m128i bad = _mm_setzero_si128();
        size_t i = 0;
        for (; i + n <= count; i += n) {
            const __m128i h = _mm256_cvtps_ph(load(from + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
            bad = _mm_or_si128(bad, _mm_cmpeq_epi16(_mm_and_si128(h, exponent), exponent));
            _mm_storeu_si128(reinterpret_cast<__m128i *>(to + i), h);
        }
        bool finite = _mm_testz_si128(bad, bad) != 0;
        for (; i < count; ++i) {
            to[i] = _cvtss_sh(from[i], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
            finite &= (to[i] & 0x7c00) != 0x7c00;
        }
        return finite;
    }

  private:
    template <int32_t bits>
    static void unpack_all(const uint8_t * bricks, size_t n_bricks, int32_t plane, int32_t bias, uint8_t * to) {
        for (size_t b = 0; b < n_bricks; ++b, bricks += 8 * bits, to += 64) {
            bytes both[2];
            unpack_brick<bits>(bricks, plane, bias, both);
            _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), both[0]);
            _mm256_storeu_si256(reinterpret_cast<__m256i *>(to + 32), both[1]);
        }
    }

    // 32 bits at p to 32 bytes: `bit` where one is set.
    static __m256i spread_bits(const uint8_t * p, char bit) {
        const __m256i word = set_bytes(p);
        const __m256i which = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
        const __m256i mask = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
        const __m256i picked = _mm256_and_si256(_mm256_shuffle_epi8(word, which), mask);
        return _mm256_and_si256(_mm256_cmpeq_epi8(picked, mask), _mm256_set1_epi8(bit));
    }
};

}  // namespace
}  // namespace livekv
