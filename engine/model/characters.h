#pragma once

#include <cstddef>
#include <string_view>

namespace livekv {

// Bytes of Unicode's White_Space that text begins or ends with.
size_t leading_white_space(std::string_view text);
size_t trailing_white_space(std::string_view text);

// Whether text begins or ends with a character of words (UTS #18: letters, marks, digits, connectors, joiners).
bool starts_with_word(std::string_view text);
bool ends_with_word(std::string_view text);

}  // namespace livekv
