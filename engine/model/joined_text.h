#pragma once

#include <span>
#include <string>
#include <vector>

#include "model/special_tokens.h"
#include "model/tokenizer.h"

namespace livekv {

// A text's parts in one string, and where in it control tokens count.
struct joined_text {
    std::string text;
    std::vector<special_tokens::span> control;
};

// tidy: as SentencePiece's remove_extra_whitespaces, with no space at either end and one where several were; the
// beginning of a text that goes on behind another (begins is false) is no end.
joined_text join(std::span<const text_part> parts, bool tidy, bool begins);

// Part of a text.
joined_text slice(const joined_text & text, size_t begin, size_t end);

// The same text in Unicode's form C; characters on both sides of a border of control do not become one.
joined_text composed(const joined_text & text);

// The same text with its spaces written as marks, one more in front where asked for.
joined_text marked(const joined_text & text, bool one_in_front);

}  // namespace livekv
