#pragma once

#include <cstddef>
#include <optional>
#include <span>

namespace livekv {

// Index of the first value that is NaN or infinite; none when all are numbers. At the speed of memory.
std::optional<size_t> first_not_finite(std::span<const float> values);

}  // namespace livekv
