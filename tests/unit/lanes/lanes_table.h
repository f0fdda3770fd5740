#pragma once

// One CPU level's lanes behind plain functions on memory, so that levels of different widths, each compiled with its
// own instructions, can be compared number by number.

#include <cstddef>
#include <cstdint>

namespace livekv {

constexpr size_t n_at_once = 16;  // counts below are multiples of it: the widest level's lanes

// to[i] = f(in[0][i], in[1][i]), of which an operation reads as many as it needs.
struct float_operation {
    const char * name;
    void (*run)(const float * const * in, float * to, size_t count);
};

struct lanes_table {
    int32_t n;
    const float_operation * operations;
    size_t n_operations;

    void (*fma)(const float * a, const float * b, const float * c, float * to, size_t count);
    void (*round)(const float * from, int32_t * to, size_t count);
    void (*to_float)(const int32_t * from, float * to, size_t count);
    void (*fraction)(const float * from, float * to, size_t count);
    void (*times_pow2)(const float * from, const float * exponents, float * to, size_t count);
    void (*load_i8)(const int8_t * from, float * to, size_t count);

    // Of one vector.
    bool (*any_greater)(const float * a, const float * b);
    float (*sum)(const float * a);
    float (*largest)(const float * a);
    // Of four, one after the other; to: [4].
    void (*sum_4)(const float * a, float * to);
    void (*largest_4)(const float * a, float * to);

    void (*store_bytes)(const int32_t * const * in, uint8_t * to, size_t count);  // in: [4][count], to: [count, 4]
    void (*store_32_bytes)(const int32_t * in, uint8_t * to);                     // in: [32]

    // Sums of n_dots products of u and s, both [n_dots, n_at_once, 4], or of the first four bytes of one's step for all
    // lanes; to: [n_at_once].
    void (*dots)(const uint8_t * u, const int8_t * s, size_t n_dots, float * to);
    void (*dots_same_signed)(const uint8_t * u, const int8_t * s, size_t n_dots, float * to);
    void (*dots_same_unsigned)(const uint8_t * u, const int8_t * s, size_t n_dots, float * to);

    void (*unpack)(const uint8_t * bricks, size_t n_bricks, int32_t bits, int32_t plane, int32_t bias, uint8_t * to);
    // Dot products of two bricks' codes, to_next bytes apart, with the same four bytes, which the codes or these are
    // signed; to: [2, 16].
    void (*brick_dots)(const uint8_t * brick, size_t to_next, int32_t bits, int32_t plane, int32_t bias,
                       bool codes_signed, const uint8_t * four, float * to);
    void (*columns_4)(const float * from, float * to);  // from: [32, 4]; to: [4, 32]
    // from: [, 4]; to: [32, 4]
    void (*sum_at_places_4)(const float * x, const uint16_t * places, int32_t n, const float * from, float * to);
    void (*add_scaled_4)(float * to, const float * from, float x);
    void (*transpose_4)(const float * from, int32_t from_stride, float * to, int32_t to_stride);
    void (*to_f32_whole)(const uint16_t * from, float * to, size_t count);
    void (*to_f32)(const uint16_t * from, float * to, size_t count);  // any count
    bool (*to_f16)(const float * from, uint16_t * to, size_t count);
};

extern const lanes_table generic_lanes;
#if defined(LIVEKV_X86)
extern const lanes_table avx2_lanes;
extern const lanes_table avx512_lanes;
#endif

}  // namespace livekv
