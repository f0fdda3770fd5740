#include "finite.h"

#include <bit>
#include <cstdint>

namespace livekv {

namespace {

constexpr uint32_t exponent = 0x7f800000;  // all of its bits set: no number

uint32_t is_no_number(float value) {
    return (std::bit_cast<uint32_t>(value) & exponent) == exponent;
}

}  // namespace

std::optional<size_t> first_not_finite(std::span<const float> values) {
    uint32_t any = 0;  // no early way out, so that the compiler can take many values at once
    for (const float value : values) {
        any |= is_no_number(value);
    }
    if (any) {
        for (size_t i = 0; i < values.size(); ++i) {
            if (is_no_number(values[i])) {
                return i;
            }
        }
    }
    return std::nullopt;
}

bool all_within(std::span<const float> values, float largest) {
    const auto top = std::bit_cast<int32_t>(largest);  // of positive numbers, bits are in the order of values, NaN last
    int32_t any = 0;
    for (const float value : values) {
        any |= static_cast<int32_t>((std::bit_cast<int32_t>(value) & 0x7fffffff) > top);
    }
    return any == 0;
}

}  // namespace livekv
