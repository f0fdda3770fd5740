#pragma once

#include <cstddef>
#include <optional>
#include <span>

namespace livekv {

// Index of the first value that is NaN or infinite; none when all are numbers. At the speed of memory.
std::optional<size_t> first_not_finite(std::span<const float> values);

// Whether all are numbers from -largest to largest, which is finite and not negative. At the speed of memory.
bool all_within(std::span<const float> values, float largest);

}  // namespace livekv
