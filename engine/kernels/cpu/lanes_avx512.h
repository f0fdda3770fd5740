#pragma once

// Sixteen rows side by side with AVX-512 (F, BW, VL, DQ, VNNI); see lanes_generic.h for what each name means.

#include <immintrin.h>

#include <cstdint>

namespace livekv {
namespace {

struct lanes {
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
    static f32 where_less(f32 x, f32 limit, f32 a, f32 b) {
        return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, limit, _CMP_LT_OQ), b, a);
    }
    static bool any_greater(f32 a, f32 b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0; }

    static i32 round(f32 a) { return _mm512_cvtps_epi32(a); }
    static f32 to_float(i32 a) { return _mm512_cvtepi32_ps(a); }
    static f32 pow2(i32 a) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(a, _mm512_set1_epi32(127)), 23));
    }
    static void store_bytes(void * p, i32 a, i32 b, i32 c, i32 d) {
        const i32 low = _mm512_set1_epi32(255);
        const i32 ab = _mm512_or_si512(_mm512_and_si512(a, low), _mm512_slli_epi32(_mm512_and_si512(b, low), 8));
        const i32 cd = _mm512_or_si512(_mm512_slli_epi32(_mm512_and_si512(c, low), 16), _mm512_slli_epi32(d, 24));
        _mm512_storeu_si512(p, _mm512_or_si512(ab, cd));
    }

    static dot_sum dot_zero() { return _mm512_setzero_si512(); }
    static bytes load_bytes(const void * p) { return _mm512_loadu_si512(p); }
    static bytes set_bytes(const void * four) {
        int32_t word;
        __builtin_memcpy(&word, four, sizeof(word));
        return _mm512_set1_epi32(word);
    }
    static dot_sum dot(dot_sum acc, bytes u, bytes s) { return _mm512_dpbusd_epi32(acc, u, s); }
    static f32 dot_float(dot_sum acc) { return _mm512_cvtepi32_ps(acc); }

    static f32 load_i8(const int8_t * p) {
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))));
    }
    static float sum(f32 a) { return _mm512_reduce_add_ps(a); }
    static float largest(f32 a) { return _mm512_reduce_max_ps(a); }
    static void store_32_bytes(uint8_t * p, const i32 * v) {
        _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm512_cvtepi32_epi8(v[0]));
        _mm_storeu_si128(reinterpret_cast<__m128i *>(p + 16), _mm512_cvtepi32_epi8(v[1]));
    }

    template <int32_t bits>
    static void unpack_brick(const uint8_t * brick, int32_t plane, int32_t bias, bytes * to) {
        const __m512i nibble = _mm512_set1_epi8(15);
        __m512i u;
        if constexpr (bits <= 3) {
            const __m512i four_times =
                _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i *>(brick)));
            const __m512i shifts = _mm512_setr_epi64(0, 0, 2, 2, 4, 4, 6, 6);
            u = _mm512_and_si512(_mm512_srlv_epi64(four_times, shifts), _mm512_set1_epi8(3));
        } else if constexpr (bits <= 5) {
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
            default:
                return unpack_all<8>(bricks, n_bricks, plane, bias, to);
        }
    }

    static void add_scaled_4(float * to, const float * from, float x) {
        _mm_storeu_ps(to, _mm_fmadd_ps(_mm_loadu_ps(from), _mm_set1_ps(x), _mm_loadu_ps(to)));
    }
    static void transpose_4(const float * from, int32_t from_stride, float * to, int32_t to_stride) {
        __m128 a = _mm_loadu_ps(from);
        __m128 b = _mm_loadu_ps(from + from_stride);
        __m128 c = _mm_loadu_ps(from + 2 * from_stride);
        __m128 d = _mm_loadu_ps(from + 3 * from_stride);
        _MM_TRANSPOSE4_PS(a, b, c, d);
        _mm_storeu_ps(to, a);
        _mm_storeu_ps(to + to_stride, b);
        _mm_storeu_ps(to + 2 * to_stride, c);
        _mm_storeu_ps(to + 3 * to_stride, d);
    }
    static void add_transposed_4(const float * from, int32_t from_stride, float * to, int32_t to_stride) {
        for (int32_t i = 0; i < 32; i += 4) {
            float columns[16];
            transpose_4(from + i * from_stride, from_stride, columns, 4);
            for (int32_t k = 0; k < 4; ++k) {
                float * const at = to + k * to_stride + i;
                _mm_storeu_ps(at, _mm_add_ps(_mm_loadu_ps(at), _mm_loadu_ps(columns + 4 * k)));
            }
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
