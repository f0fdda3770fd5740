#pragma once

// An input of the gguf target is a file, or the two parts of a split one: the word PART, the length of the first,
// 32 bits, and both.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace fuzz {

inline constexpr char parts_mark[4] = {'P', 'A', 'R', 'T'};
inline constexpr size_t parts_head = sizeof(parts_mark) + sizeof(uint32_t);

struct gguf_parts {
    std::span<const uint8_t> first, second;
    bool two;
};

inline gguf_parts parts_of(const uint8_t * data, size_t size) {
    if (size < parts_head || std::memcmp(data, parts_mark, sizeof(parts_mark)) != 0) {
        return {{data, size}, {}, false};
    }
    uint32_t length = 0;
    std::memcpy(&length, data + sizeof(parts_mark), sizeof(length));
    const std::span<const uint8_t> both(data + parts_head, size - parts_head);
    const size_t n = length < both.size() ? length : both.size();
    return {both.first(n), both.subspan(n), true};
}

inline void write_parts_head(uint8_t * data, uint32_t length_of_first) {
    std::memcpy(data, parts_mark, sizeof(parts_mark));
    std::memcpy(data + sizeof(parts_mark), &length_of_first, sizeof(length_of_first));
}

}  // namespace fuzz
