#pragma once

// Sixteen rows side by side with AVX-512 (F, BW, VL, DQ, VNNI); see lanes_generic.h for what each name means.

#include "kernels/cpu/lanes_x86.h"

namespace livekv {
namespace {

struct lanes : lanes_of_4 {
    static constexpr int32_t n = 16;
    using f32 = __m512;
    using i32 = __m512i;
    using bytes = __m512i;
    using dot_sum = __m512i;  // in 32 bits

    static f32 load(const float * p) { return _mm512_loadu_ps(p); }
    static void store(float * p, f32 a) { _mm512_storeu_ps(p, a); }
    static f32 set(float a) { return _mm512_set1_ps(a); }
    static f32 add(f32 a, f32 b) { return _mm512_add_ps(a, b); }
    static f32 sub(f32 a, f32 b) { return _mm512_sub_ps(a, b); }
    static f32 mul(f32 a, f32 b) { return _mm512_mul_ps(a, b); }
    static f32 div(f32 a, f32 b) { return _mm512_div_ps(a, b); }
    static f32 fma(f32 a, f32 b, f32 c) { return _mm512_fmadd_ps(a, b, c); }
    static f32 max(f32 a, f32 b) { return _mm512_max_ps(a, b); }
    static f32 min(f32 a, f32 b) { return _mm512_min_ps(a, b); }
    static f32 abs(f32 a) { return _mm512_abs_ps(a); }
    static bool any_greater(f32 a, f32 b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0; }

    static i32 round(f32 a) { return _mm512_cvtps_epi32(a); }
    static f32 to_float(i32 a) { return _mm512_cvtepi32_ps(a); }
    static f32 fraction(f32 x) { return _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
    static f32 times_pow2(f32 a, f32 x) { return _mm512_scalef_ps(a, x); }
    static void store_bytes(void * p, i32 a, i32 b, i32 c, i32 d) {
        const i32 low = _mm512_set1_epi32(255);
        const i32 ab = _mm512_or_si512(_mm512_and_si512(a, low), _mm512_slli_epi32(_mm512_and_si512(b, low), 8));
        const i32 cd = _mm512_or_si512(_mm512_slli_epi32(_mm512_and_si512(c, low), 16), _mm512_slli_epi32(d, 24));
        _mm512_storeu_si512(p, _mm512_or_si512(ab, cd));
    }

    static constexpr bool sums_of_16_bits = false;
    static dot_sum dot_zero() { return _mm512_setzero_si512(); }
    static bytes load_bytes(const void * p) { return _mm512_loadu_si512(p); }
    static bytes set_bytes(const void * four) {
        int32_t word;
        __builtin_memcpy(&word, four, sizeof(word));
        return _mm512_set1_epi32(word);
    }
    static bytes field(bytes a, int32_t shift, int32_t mask) {
        const bytes moved = shift >= 0 ? _mm512_srli_epi16(a, static_cast<uint32_t>(shift))
                                       : _mm512_slli_epi16(a, static_cast<uint32_t>(-shift));
        return _mm512_and_si512(moved, _mm512_set1_epi8(static_cast<char>(mask)));
    }
    static bytes join(bytes a, bytes b) { return _mm512_or_si512(a, b); }
    static constexpr int32_t product_rows = 8;
    static dot_sum dot(dot_sum acc, bytes u, bytes s) { return _mm512_dpbusd_epi32(acc, u, s); }
    static i32 dot_i32(dot_sum acc, int16_t times) { return _mm512_mullo_epi32(acc, _mm512_set1_epi32(times)); }
    static i32 add_i32(i32 a, i32 b) { return _mm512_add_epi32(a, b); }
    static f32 dot_float(dot_sum acc) { return _mm512_cvtepi32_ps(acc); }

    static f32 load_i8(const int8_t * p) {
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))));
    }
    static f32 load_u8(const uint8_t * p) {
        return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))));
    }
    static f32 load_f16(const void * p) { return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i *>(p))); }
    static f32 set_word(const void * p) { return _mm512_set1_ps(*static_cast<const float *>(p)); }
    static float sum(f32 a) { return _mm512_reduce_add_ps(a); }
    static float largest(f32 a) { return _mm512_reduce_max_ps(a); }
    static void sum_4(const f32 * v, float * to) {
        across_4(v, [](__m256 a, __m256 b) { return _mm256_add_ps(a, b); }, to);
    }
    static void largest_4(const f32 * v, float * to) {
        across_4(v, [](__m256 a, __m256 b) { return _mm256_max_ps(a, b); }, to);
    }
    static void store_32_bytes(uint8_t * p, const i32 * v) {
        _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm512_cvtepi32_epi8(v[0]));
        _mm_storeu_si128(reinterpret_cast<__m128i *>(p + 16), _mm512_cvtepi32_epi8(v[1]));
    }

    // Things 0 ... 7 of both bricks in the first vector, 8 ... 15 in the second: so four and five bits need no shuffle
    // but the one that puts the bricks together. Of four bits, codes stay in the upper half of their bytes where that
    // is where they come from, and unsigned ones of the lower half keep the others above them: settle knows.
    static constexpr int32_t n_bricks = 2;
    template <int32_t bits>
    static void unpack_bricks(const uint8_t * brick, size_t to_next, int32_t plane, int32_t bias, bytes * to) {
        const __m512i high = _mm512_set1_epi8(static_cast<char>(0xf0));
        const __m512i minus = _mm512_set1_epi8(static_cast<char>(bias));
        if constexpr (bits == 4) {
            const __m512i packed = load_2(brick, brick + to_next);
            if (bias == 0) {
                to[0] = packed;
                to[1] = _mm512_and_si512(packed, high);
            } else {  // 16 (u - 8) is 16 u with its top bit the other way round
                const __m512i top = _mm512_set1_epi8(static_cast<char>(0x80));
                to[0] = _mm512_sub_epi8(_mm512_andnot_si512(high, packed), minus);
                to[1] = _mm512_ternarylogic_epi64(packed, high, top, 0x6a);  // (packed & high) ^ top
            }
        } else if constexpr (bits == 5) {
            uint64_t a;
            uint64_t b;
            __builtin_memcpy(&a, brick + 32, sizeof(a));
            __builtin_memcpy(&b, brick + to_next + 32, sizeof(b));
            const __m512i fifth = _mm512_set1_epi8(16);
            const __m512i packed = load_2(brick, brick + to_next);
            const __m512i low = _mm512_sub_epi8(_mm512_andnot_si512(high, packed), minus);
            const __m512i up = _mm512_sub_epi8(_mm512_andnot_si512(high, _mm512_srli_epi16(packed, 4)), minus);
            to[0] = _mm512_mask_add_epi8(low, (a & 0xffffffff) | b << 32, low, fifth);
            to[1] = _mm512_mask_add_epi8(up, a >> 32 | (b >> 32) << 32, up, fifth);
        } else {
            bytes a[1];
            bytes b[1];
            unpack_brick<bits>(brick, plane, bias, a);
            unpack_brick<bits>(brick + to_next, plane, bias, b);
            to[0] = _mm512_shuffle_i64x2(a[0], b[0], 0x44);
            to[1] = _mm512_shuffle_i64x2(a[0], b[0], 0xee);
        }
    }
    template <int32_t bits>
    static void settle(dot_sum * sums, int32_t bias) {
        if constexpr (bits == 4) {
            if (bias == 0) {
                sums[0] = _mm512_sub_epi32(sums[0], sums[1]);
            }
            sums[1] = _mm512_srai_epi32(sums[1], 4);
        }
    }
    static void reorder(f32 * numbers) {
        const f32 first = _mm512_shuffle_f32x4(numbers[0], numbers[1], 0x44);
        numbers[1] = _mm512_shuffle_f32x4(numbers[0], numbers[1], 0xee);
        numbers[0] = first;
    }

    // As unpack, one brick.
    template <int32_t bits>
    static void unpack_brick(const uint8_t * brick, int32_t plane, int32_t bias, bytes * to) {
        const __m512i nibble = _mm512_set1_epi8(15);
        __m512i u;
        if constexpr (bits <= 3) {
            const __m512i four_times =
                _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i *>(brick)));
            const __m512i shifts = _mm512_setr_epi64(0, 0, 2, 2, 4, 4, 6, 6);
            u = _mm512_and_si512(_mm512_srlv_epi64(four_times, shifts), _mm512_set1_epi8(3));
        } else if constexpr (bits <= 6) {
            const __m256i packed = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(brick));
            const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(packed), _mm256_srli_epi16(packed, 4), 1);
            u = _mm512_and_si512(both, nibble);
        } else {
            const __m512i whole = _mm512_loadu_si512(brick);
            u = _mm512_and_si512(plane == 0 ? whole : _mm512_srli_epi16(whole, 4), nibble);
        }
        if constexpr (bits == 3 || bits == 5) {
            uint64_t top;
            __builtin_memcpy(&top, brick + 8 * (bits - 1), sizeof(top));
            u = _mm512_or_si512(u, _mm512_maskz_set1_epi8(top, static_cast<char>(1 << (bits - 1))));
        } else if constexpr (bits == 6) {
            bytes above[1];
            unpack_brick<2>(brick + 32, 0, 0, above);
            u = _mm512_or_si512(u, _mm512_slli_epi16(above[0], 4));
        }
        to[0] = _mm512_sub_epi8(u, _mm512_set1_epi8(static_cast<char>(bias)));
    }

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

    // Two rounds: two rows of eight things, then one of sixteen.
    static void columns_4(const float * from, f32 (*to)[2]) {
        const __m512i rows_01 = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
        const __m512i rows_23 = _mm512_setr_epi32(2, 6, 10, 14, 18, 22, 26, 30, 3, 7, 11, 15, 19, 23, 27, 31);
        for (int32_t v = 0; v < 2; ++v, from += 64) {
            const f32 a = load(from);
            const f32 b = load(from + 16);
            const f32 c = load(from + 32);
            const f32 d = load(from + 48);
            f32 low[2] = {_mm512_permutex2var_ps(a, rows_01, b), _mm512_permutex2var_ps(c, rows_01, d)};
            f32 high[2] = {_mm512_permutex2var_ps(a, rows_23, b), _mm512_permutex2var_ps(c, rows_23, d)};
            reorder(low);
            reorder(high);
            to[0][v] = low[0];
            to[1][v] = low[1];
            to[2][v] = high[0];
            to[3][v] = high[1];
        }
    }

    static void to_f32_whole(const uint16_t * from, float * to, size_t count) {
        for (size_t i = 0; i < count; i += n) {
            store(to + i, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from + i))));
        }
    }
    static void to_f32(const uint16_t * from, float * to, size_t count) {
        size_t i = 0;
        for (; i + n <= count; i += n) {
            store(to + i, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from + i))));
        }
        for (; i < count; ++i) {
            to[i] = _cvtsh_ss(from[i]);
        }
    }
    static bool to_f16(const float * from, uint16_t * to, size_t count) {
        const __m256i exponent = _mm256_set1_epi16(0x7c00);
        bool finite = true;
        size_t i = 0;
        for (; i + n <= count; i += n) {
            const __m256i h = _mm512_cvtps_ph(load(from + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
            finite &= _mm256_cmpeq_epi16_mask(_mm256_and_si256(h, exponent), exponent) == 0;
            _mm256_storeu_si256(reinterpret_cast<__m256i *>(to + i), h);
        }
        for (; i < count; ++i) {
            to[i] = _cvtss_sh(from[i], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
            finite &= (to[i] & 0x7c00) != 0x7c00;
        }
        return finite;
    }

  private:
    template <typename F>
    static void across_4(const f32 * v, F f, float * to) {
        __m256 half[4];
        for (int32_t i = 0; i < 4; ++i) {
            half[i] = f(_mm512_castps512_ps256(v[i]), _mm512_extractf32x8_ps(v[i], 1));
        }
        lanes_of_4::across_4(half, f, to);
    }
    static __m512i load_2(const uint8_t * a, const uint8_t * b) {
        const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(a));
        return _mm512_inserti64x4(_mm512_castsi256_si512(low), _mm256_loadu_si256(reinterpret_cast<const __m256i *>(b)),
                                  1);
    }

    template <int32_t bits>
    static void unpack_all(const uint8_t * bricks, size_t n_bricks, int32_t plane, int32_t bias, uint8_t * to) {
        for (size_t b = 0; b < n_bricks; ++b, bricks += 8 * bits, to += 64) {
            bytes brick[1];
            unpack_brick<bits>(bricks, plane, bias, brick);
            _mm512_storeu_si512(to, brick[0]);
        }
    }
};

}  // namespace
}  // namespace livekv
