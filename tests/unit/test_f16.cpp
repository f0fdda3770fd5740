// Conversion to and from f16, against ggml's.

#include <ggml.h>

#include <cmath>
#include <cstring>

#include "check.h"
#include "kv/f16.h"

using namespace livekv;

namespace {

bool same_float(float a, float b) {
    return std::memcmp(&a, &b, sizeof(a)) == 0 || (std::isnan(a) && std::isnan(b));
}

bool is_f16_nan(uint16_t h) {
    return (h & 0x7c00u) == 0x7c00u && (h & 0x3ffu) != 0;
}

}  // namespace

TEST(f16_is_ggmls_f16) {
    int n_wrong = 0;
    for (uint32_t h = 0; h < 0x10000; ++h) {
        const float expected = ggml_fp16_to_fp32(static_cast<ggml_fp16_t>(h));
        n_wrong += !same_float(f16_to_f32(static_cast<uint16_t>(h)), expected);
        n_wrong += !is_f16_nan(static_cast<uint16_t>(h)) && f32_to_f16(expected) != h;
    }
    CHECK_EQ(n_wrong, 0);
}

TEST(floats_round_to_f16_as_in_ggml) {
    int n_wrong = 0;
    const auto compare = [&](uint32_t bits) {
        float x;
        std::memcpy(&x, &bits, sizeof(x));
        const uint16_t expected = ggml_fp32_to_fp16(x);
        const uint16_t got = f32_to_f16(x);
        n_wrong += is_f16_nan(expected) ? !is_f16_nan(got) : got != expected;
    };
    // Around every half, every tie between two of them, and beyond the last one.
    for (uint32_t h = 0; h < 0x7c00; ++h) {
        const double here = f16_to_f32(static_cast<uint16_t>(h));
        const double next = h + 1 < 0x7c00 ? static_cast<double>(f16_to_f32(static_cast<uint16_t>(h + 1))) : 65536.0;
        for (const double x : {here, 0.5 * (here + next)}) {
            const float f = static_cast<float>(x);
            uint32_t bits;
            std::memcpy(&bits, &f, sizeof(bits));
            for (const uint32_t near : {bits - 1, bits, bits + 1}) {
                compare(near);
                compare(near ^ 0x80000000u);
            }
        }
    }
    for (uint32_t i = 0; i < 4000000; ++i) {
        compare(i * 2654435761u);
    }
    for (const uint32_t special :
         {0x7f800000u, 0xff800000u, 0x7fc00000u, 0x7f800001u, 0xffffffffu, 0x00000001u, 0x47800000u}) {
        compare(special);
    }
    CHECK_EQ(n_wrong, 0);
    CHECK_EQ(f32_to_f16(65519.99f), 0x7bff);
    CHECK_EQ(f32_to_f16(65520.0f), 0x7c00);
}

TEST(what_is_too_large_becomes_the_largest_where_asked) {
    for (const float x : {65504.0f, 65520.0f, 131008.0f, INFINITY}) {
        CHECK_EQ(f32_to_f16_finite(x), 0x7bff);
        CHECK_EQ(f32_to_f16_finite(-x), 0xfbff);
    }
    CHECK_EQ(f32_to_f16_finite(-1.5f), f32_to_f16(-1.5f));
}

TEST_MAIN
