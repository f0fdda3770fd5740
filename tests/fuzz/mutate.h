#pragma once

// Changes that keep a binary file's lengths and offsets as they are; libFuzzer's own would move everything behind them.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>

extern "C" size_t LLVMFuzzerMutate(uint8_t * data, size_t size, size_t max_size);

namespace fuzz {

// Overwrites one to four numbers, more often near the beginning, where a GGUF file says what is in it.
inline void overwrite_numbers(uint8_t * data, size_t size, std::minstd_rand & random) {
    constexpr uint64_t telling[] = {0,
                                    1,
                                    2,
                                    3,
                                    31,
                                    32,
                                    33,
                                    0x7F,
                                    0x80,
                                    0xFF,
                                    0x100,
                                    0x7FFF,
                                    0x8000,
                                    0xFFFF,
                                    0x7C00,
                                    0x7E00,
                                    0xFC00,
                                    0x7FFFFFFF,
                                    0x80000000,
                                    0xFFFFFFFF,
                                    0x7F800000,
                                    0x7FC00000,
                                    0x7C007C00,
                                    0x100000000,
                                    0x7FFFFFFFFFFFFFFF,
                                    0x8000000000000000,
                                    0xFFFFFFFFFFFFFFFF};
    for (unsigned n = 1 + random() % 4; n > 0 && size > 0; --n) {
        const size_t within = random() % 3 == 0 ? size : 1 + random() % size;
        const size_t width = size_t(1) << random() % 4;
        const size_t at = random() % within / (random() % 4 ? width : 1) * (random() % 4 ? width : 1) % size;
        const size_t n_bytes = at + width <= size ? width : size - at;
        uint64_t value = 0;
        std::memcpy(&value, data + at, n_bytes);
        switch (random() % 4) {
            case 0:
                value = telling[random() % std::size(telling)];
                break;
            case 1:
                value ^= uint64_t(1) << random() % (8 * width);
                break;
            case 2:
                value += random() % 9 - 4;
                break;
            default:
                std::memcpy(&value, data + random() % (size - n_bytes + 1), n_bytes);
        }
        std::memcpy(data + at, &value, n_bytes);
    }
}

}  // namespace fuzz
