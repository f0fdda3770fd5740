#pragma once

// What the AVX2 and the AVX-512 lanes share: work on four floats, the rows that one brick serves, side by side. See
// lanes_generic.h for what each name means.

#include <immintrin.h>

#include <cstdint>

namespace livekv {
namespace {

struct lanes_of_4 {
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
    // f over the numbers of each of four vectors.
    template <typename F>
    static void across_4(const __m256 * v, F f, float * to) {
        const __m256 ab = f(_mm256_unpacklo_ps(v[0], v[1]), _mm256_unpackhi_ps(v[0], v[1]));
        const __m256 cd = f(_mm256_unpacklo_ps(v[2], v[3]), _mm256_unpackhi_ps(v[2], v[3]));
        const __m256 halves = f(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
        _mm_storeu_ps(to, _mm256_castps256_ps128(f(halves, _mm256_permute2f128_ps(halves, halves, 1))));
    }
    // A running sum that starts anew where the place changes, stored at every step: nothing is read back that was
    // just written, which would cost more than all the rest.
    static void sum_at_places_4(const float * x, const uint16_t * places, int32_t n, const float * from, float * to) {
        static const float keep[2] = {1.0f, 0.0f};  // looked up: a branch would often be mispredicted
        __m128 sum = _mm_setzero_ps();
        uint32_t before = 0;
        for (int32_t i = 0; i < n; ++i) {
            const uint32_t place = places[i];
            const __m128 kept = _mm_broadcast_ss(keep + ((place ^ before) > 0x7ff));
            before = place;
            const __m128 product = _mm_mul_ps(_mm_loadu_ps(from + 4 * (place & 0x7ff)), _mm_broadcast_ss(x + i));
            sum = _mm_fmadd_ps(sum, kept, product);
            _mm_storeu_ps(to + 4 * (place >> 11), sum);
        }
    }
};

}  // namespace
}  // namespace livekv
