#pragma once

#include <cstdint>
#include <iostream>
#include <vector>

#include "error.h"

namespace livekv {

// The next n floats of stdin, as they lie in memory.
inline std::vector<float> floats_in(int64_t n) {
    std::vector<float> x(static_cast<size_t>(n));
    std::cin.read(reinterpret_cast<char *>(x.data()), static_cast<std::streamsize>(x.size() * sizeof(float)));
    if (!std::cin) {
        fail("the input ends early");
    }
    return x;
}

}  // namespace livekv
