#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "kv/kv_block.h"

namespace livekv {

// What a kernel may take for granted of a block or of f16 rows that this process did not make: nothing in them leads it
// out of bounds or to a number that is none. Both return what is wrong, or an empty text.

// block: kv_map(expected).bytes of them.
std::string problem_of_block(const uint8_t * block, const kv_block_header & expected);

// rows: n f16 values.
std::string problem_of_rows(const uint16_t * rows, size_t n);

}  // namespace livekv
