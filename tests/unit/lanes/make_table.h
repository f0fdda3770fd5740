#pragma once

// The table of the `lanes` included before this. Internal linkage and no library templates, as in the kernels: no other
// file may be given code of this one's instruction set.

#include "lanes/lanes_table.h"

namespace livekv {
namespace {

constexpr size_t n_lanes = lanes::n;

// An operation's f takes the vectors at one place of the two inputs.
template <typename F>
inline void each_vector(const float * const * in, float * to, size_t count, F f) {
    for (size_t i = 0; i < count; i += n_lanes) {
        lanes::store(to + i, f(lanes::load(in[0] + i), lanes::load(in[1] + i)));
    }
}

inline lanes::i32 load_i32(const int32_t * p) {
    lanes::i32 v;
    static_assert(sizeof(v) == n_lanes * sizeof(int32_t));
    __builtin_memcpy(&v, p, sizeof(v));
    return v;
}

#define LANES_OPERATION(name, expression)                            \
    {name, [](const float * const * in, float * to, size_t count) {  \
         each_vector(in, to, count, [](lanes::f32 a, lanes::f32 b) { \
             (void)a, (void)b;                                       \
             return expression;                                      \
         });                                                         \
     }}

const float_operation operations[] = {
    LANES_OPERATION("load", a),
    LANES_OPERATION("set", lanes::set(1.5f)),
    LANES_OPERATION("add", lanes::add(a, b)),
    LANES_OPERATION("sub", lanes::sub(a, b)),
    LANES_OPERATION("mul", lanes::mul(a, b)),
    LANES_OPERATION("div", lanes::div(a, b)),
    LANES_OPERATION("max", lanes::max(a, b)),
    LANES_OPERATION("min", lanes::min(a, b)),
    LANES_OPERATION("abs", lanes::abs(a)),
};

#undef LANES_OPERATION

inline void fma_all(const float * a, const float * b, const float * c, float * to, size_t count) {
    for (size_t i = 0; i < count; i += n_lanes) {
        lanes::store(to + i, lanes::fma(lanes::load(a + i), lanes::load(b + i), lanes::load(c + i)));
    }
}

inline void round_all(const float * from, int32_t * to, size_t count) {
    for (size_t i = 0; i < count; i += n_lanes) {
        const lanes::i32 v = lanes::round(lanes::load(from + i));
        __builtin_memcpy(to + i, &v, sizeof(v));
    }
}

inline void to_float_all(const int32_t * from, float * to, size_t count) {
    for (size_t i = 0; i < count; i += n_lanes) {
        lanes::store(to + i, lanes::to_float(load_i32(from + i)));
    }
}

inline void fraction_all(const float * from, float * to, size_t count) {
    for (size_t i = 0; i < count; i += n_lanes) {
        lanes::store(to + i, lanes::fraction(lanes::load(from + i)));
    }
}

inline void times_pow2_all(const float * from, const float * exponents, float * to, size_t count) {
    for (size_t i = 0; i < count; i += n_lanes) {
        lanes::store(to + i, lanes::times_pow2(lanes::load(from + i), lanes::load(exponents + i)));
    }
}

inline void load_i8_all(const int8_t * from, float * to, size_t count) {
    for (size_t i = 0; i < count; i += n_lanes) {
        lanes::store(to + i, lanes::load_i8(from + i));
    }
}

inline bool any_greater_of(const float * a, const float * b) {
    return lanes::any_greater(lanes::load(a), lanes::load(b));
}
inline float sum_of(const float * a) {
    return lanes::sum(lanes::load(a));
}
inline float largest_of(const float * a) {
    return lanes::largest(lanes::load(a));
}

template <void (*f)(const lanes::f32 *, float *)>
inline void of_4(const float * a, float * to) {
    lanes::f32 v[4];
    for (size_t i = 0; i < 4; ++i) {
        v[i] = lanes::load(a + i * n_lanes);
    }
    f(v, to);
}

inline void store_bytes_all(const int32_t * const * in, uint8_t * to, size_t count) {
    for (size_t i = 0; i < count; i += n_lanes) {
        const lanes::i32 a = load_i32(in[0] + i);
        const lanes::i32 b = load_i32(in[1] + i);
        lanes::store_bytes(to + 4 * i, a, b, load_i32(in[2] + i), load_i32(in[3] + i));
    }
}

inline void store_32_bytes_of(const int32_t * in, uint8_t * to) {
    lanes::i32 v[32 / n_lanes];
    for (size_t i = 0; i < 32 / n_lanes; ++i) {
        v[i] = load_i32(in + i * n_lanes);
    }
    lanes::store_32_bytes(to, v);
}

template <bool same_u, bool same_s>
inline void dots_of(const uint8_t * u, const int8_t * s, size_t n_dots, float * to) {
    for (size_t i = 0; i < n_at_once; i += n_lanes) {
        lanes::dot_sum sum = lanes::dot_zero();
        for (size_t k = 0; k < n_dots; ++k) {
            const size_t step = 4 * k * n_at_once;
            const lanes::bytes a = same_u ? lanes::set_bytes(u + step) : lanes::load_bytes(u + step + 4 * i);
            const lanes::bytes b = same_s ? lanes::set_bytes(s + step) : lanes::load_bytes(s + step + 4 * i);
            sum = lanes::dot(sum, a, b);
        }
        lanes::store(to + i, lanes::dot_float(sum));
    }
}

template <int32_t bits>
inline void brick_dots(const uint8_t * brick, size_t to_next, int32_t plane, int32_t bias, bool codes_signed,
                       const uint8_t * four, float * to) {
    for (int32_t k = 0; k < 2; k += lanes::n_bricks, brick += to_next, to += 16) {
        lanes::bytes codes[2];
        lanes::unpack_bricks<bits>(brick, to_next, plane, bias, codes);
        const lanes::bytes x = lanes::set_bytes(four);
        lanes::dot_sum sum[2] = {lanes::dot_zero(), lanes::dot_zero()};
        for (int32_t v = 0; v < 2; ++v) {
            sum[v] = codes_signed ? lanes::dot(sum[v], x, codes[v]) : lanes::dot(sum[v], codes[v], x);
        }
        lanes::settle<bits>(sum, bias);
        lanes::f32 result[2] = {lanes::dot_float(sum[0]), lanes::dot_float(sum[1])};
        lanes::reorder(result);
        lanes::store(to, result[0]);
        lanes::store(to + n_lanes, result[1]);
    }
}

inline void brick_dots_of(const uint8_t * brick, size_t to_next, int32_t bits, int32_t plane, int32_t bias,
                          bool codes_signed, const uint8_t * four, float * to) {
    switch (bits) {
        case 2:
            return brick_dots<2>(brick, to_next, plane, bias, codes_signed, four, to);
        case 3:
            return brick_dots<3>(brick, to_next, plane, bias, codes_signed, four, to);
        case 4:
            return brick_dots<4>(brick, to_next, plane, bias, codes_signed, four, to);
        case 5:
            return brick_dots<5>(brick, to_next, plane, bias, codes_signed, four, to);
        default:
            return brick_dots<8>(brick, to_next, plane, bias, codes_signed, four, to);
    }
}

inline void columns_4_of(const float * from, float * to) {
    for (size_t i = 0; i < 32; i += 2 * n_lanes) {
        lanes::f32 columns[4][2];
        lanes::columns_4(from + 4 * i, columns);
        for (size_t r = 0; r < 4; ++r) {
            lanes::store(to + 32 * r + i, columns[r][0]);
            lanes::store(to + 32 * r + i + n_lanes, columns[r][1]);
        }
    }
}

constexpr lanes_table table = {
    lanes::n,
    operations,
    sizeof(operations) / sizeof(operations[0]),
    fma_all,
    round_all,
    to_float_all,
    fraction_all,
    times_pow2_all,
    load_i8_all,
    any_greater_of,
    sum_of,
    largest_of,
    of_4<lanes::sum_4>,
    of_4<lanes::largest_4>,
    store_bytes_all,
    store_32_bytes_of,
    dots_of<false, false>,
    dots_of<false, true>,
    dots_of<true, false>,
    lanes::unpack,
    brick_dots_of,
    columns_4_of,
    lanes::sum_at_places_4,
    lanes::add_scaled_4,
    lanes::transpose_4,
    lanes::to_f32_whole,
    lanes::to_f32,
    lanes::to_f16,
};

}  // namespace
}  // namespace livekv
