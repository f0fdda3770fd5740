#pragma once

#include <cstdint>
#include <cstring>

namespace livekv {

// Numbers at addresses that need not be aligned for them.

template <typename T>
T load(const uint8_t * at) {
    T value;
    std::memcpy(&value, at, sizeof(T));
    return value;
}

template <typename T>
void store(uint8_t * at, T value) {
    std::memcpy(at, &value, sizeof(T));
}

}  // namespace livekv
