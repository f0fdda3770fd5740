#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace livekv {

// What text begins with: a whole character, or bytes that are none.
struct utf8_head {
    size_t length;   // bytes: of the character, or of the longest beginning of one that stands there (at least 1)
    bool valid;      // a whole character: no overlong form, no surrogate, at most U+10FFFF
    bool truncated;  // not valid, but only because text ends too early
};

// text must not be empty.
utf8_head read_utf8(std::string_view text);

// Of a whole character, as read_utf8 finds it.
char32_t code_point(std::string_view character);

// Byte offset of the first byte that belongs to no character.
std::optional<size_t> first_invalid_utf8(std::string_view text);

// text with U+FFFD for every run of bytes that begins a character and does not finish it, as browsers do.
std::string replace_invalid_utf8(std::string_view text);

// code_point: at most U+10FFFF, no surrogate.
void append_utf8(std::string & out, char32_t code_point);

}  // namespace livekv
