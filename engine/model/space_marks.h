#pragma once

#include <string>
#include <string_view>

namespace livekv {

// SentencePiece writes a space as this character, U+2581.
inline constexpr std::string_view space_mark = "\u2581";

// text with its spaces written as marks, one more in front where asked for. A mark in the text stays: Hugging Face and
// SentencePiece take it for a space too.
std::string mark_spaces(std::string_view text, bool one_in_front);
std::string unmark_spaces(std::string_view text);

}  // namespace livekv
