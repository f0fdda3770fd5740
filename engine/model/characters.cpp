#include "model/characters.h"

#include <algorithm>

#include "model/unicode_pattern.h"
#include "utf8.h"

namespace livekv {

namespace {

bool is_word(std::string_view character) {
    static const unicode_pattern words(R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200C}\x{200D}])");
    return words.is_in(character);
}

bool is_white_space(std::string_view character) {
    static const unicode_pattern spaces(R"(\p{White_Space})");
    return spaces.is_in(character);
}

// The character that text ends with, or "" where bytes that are none stand there.
std::string_view last_character(std::string_view text) {
    for (size_t length = 1; length <= std::min<size_t>(4, text.size()); ++length) {
        const std::string_view end = text.substr(text.size() - length);
        const utf8_head head = read_utf8(end);
        if (head.valid && head.length == length) {
            return end;
        }
    }
    return {};
}

std::string_view first_character(std::string_view text) {
    if (text.empty()) {
        return {};
    }
    const utf8_head head = read_utf8(text);
    return head.valid ? text.substr(0, head.length) : std::string_view();
}

}  // namespace

size_t leading_white_space(std::string_view text) {
    size_t n = 0;
    for (auto c = first_character(text); !c.empty() && is_white_space(c); c = first_character(text.substr(n))) {
        n += c.size();
    }
    return n;
}

size_t trailing_white_space(std::string_view text) {
    const size_t n = text.size();
    for (auto c = last_character(text); !c.empty() && is_white_space(c); c = last_character(text)) {
        text.remove_suffix(c.size());
    }
    return n - text.size();
}

bool starts_with_word(std::string_view text) {
    const std::string_view c = first_character(text);
    return !c.empty() && is_word(c);
}

bool ends_with_word(std::string_view text) {
    const std::string_view c = last_character(text);
    return !c.empty() && is_word(c);
}

}  // namespace livekv
