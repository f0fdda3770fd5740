#pragma once

// The codes of a brick (kv_block.h) as words. A brick is 16 rows of 4 codes: of keys a row is a token, of values a
// channel; the four of a row are what is summed over. "Row word": a row's four codes, a byte each.
//
//   word w of 4 bits, a hexadecimal digit a code, lowest first:   row w: 0 2 4 6 (even digits), row w + 8: 1 3 5 7
//   word w of 2 bits: rows w, w+4, w+8, w+12;  of 8 bits: row w
//   3 and 5 bits: as 2 and 4, then two words with the highest bits, four a row, rows 0-7 and 8-15
//   6 bits: as 4, then four words as of 2 bits with the highest two
//
// So with 4 bits the lane (g, q) of a warp that takes word g of brick q has what it holds of mma's A fragment: rows g
// and g + 8, four columns.

#include <cstdint>
#include <cstring>

#include "kv/host_device.h"

namespace livekv {

LIVEKV_HD constexpr int32_t brick_words(int32_t bits) {
    return 2 * bits;
}

// The four codes of row r of a brick.
LIVEKV_HD inline uint32_t brick_row(const uint8_t * brick, int32_t bits, int32_t r) {
    const auto word = [&](int32_t i) {
        uint32_t w;
        std::memcpy(&w, brick + 4 * i, sizeof(w));
        return w;
    };
    const auto top = [&](int32_t base) {  // a row's four highest bits, each in its byte
        const uint32_t four = word(2 * base + r / 8) >> (4 * (r % 8)) & 15u;
        return (four * 0x00204081u & 0x01010101u) << base;
    };
    switch (bits) {
        case 2:
            return word(r % 4) >> (2 * (r / 4)) & 0x03030303u;
        case 3:
            return (word(r % 4) >> (2 * (r / 4)) & 0x03030303u) | top(2);
        case 4:
            return word(r % 8) >> (4 * (r / 8)) & 0x0f0f0f0fu;
        case 5:
            return (word(r % 8) >> (4 * (r / 8)) & 0x0f0f0f0fu) | top(4);
        case 6:
            return (word(r % 8) >> (4 * (r / 8)) & 0x0f0f0f0fu) | (word(8 + r % 4) >> (2 * (r / 4)) & 0x03030303u) << 4;
        default:
            return word(r);
    }
}

// A word of two bits a code, from bit `from` on, of rows w, w + 4, w + 8 and w + 12.
template <typename Row>
LIVEKV_HD inline uint32_t word_of_twos(int32_t w, int32_t from, const Row & row) {
    return (row(w) >> from & 0x03030303u) | (row(w + 4) >> from & 0x03030303u) << 2 |
           (row(w + 8) >> from & 0x03030303u) << 4 | (row(w + 12) >> from & 0x03030303u) << 6;
}

// Word w of a brick whose row words row(r) gives.
template <typename Row>
LIVEKV_HD inline uint32_t brick_word(int32_t bits, int32_t w, const Row & row) {
    const int32_t base = bits == 3 ? 2 : bits == 5 || bits == 6 ? 4 : bits;
    if (w < 2 * base) {
        switch (base) {
            case 2:
                return word_of_twos(w, 0, row);
            case 4:
                return (row(w) & 0x0f0f0f0fu) | (row(w + 8) & 0x0f0f0f0fu) << 4;
            default:
                return row(w);
        }
    }
    if (bits == 6) {
        return word_of_twos(w - 8, 4, row);
    }
    uint32_t word = 0;
    for (int32_t i = 0; i < 8; ++i) {
        const uint32_t x = row(8 * (w - 2 * base) + i) >> base & 0x01010101u;
        word |= ((x | x >> 7 | x >> 14 | x >> 21) & 15u) << (4 * i);
    }
    return word;
}

}  // namespace livekv
