#include "session/template_origin.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "model/characters.h"
#include "model/tokenizer.h"
#include "utf8.h"

namespace livekv {

namespace {

constexpr char32_t bmp_last = 0xF8FF;  // private use: U+E000 to here, and two planes
constexpr char32_t plane_first = 0xF0000;
constexpr char32_t plane_last = 0xFFFFD;
constexpr char32_t last_plane_first = 0x100000;
constexpr char32_t last_plane_last = 0x10FFFD;

bool is_private_use(char32_t c) {
    return (c >= 0xE000 && c <= bmp_last) || (c >= plane_first && c <= plane_last) ||
           (c >= last_plane_first && c <= last_plane_last);
}

// White space, and what JSON and Python's repr escape: templates look at it.
bool shapes_text(char32_t c, std::string_view bytes) {
    return c <= 0x20 || c == '"' || c == '\'' || c == '\\' ||
           (c >= 0x80 && !bytes.empty() && leading_white_space(bytes) > 0);
}

// It becomes one character with the one in front of it in Unicode's form C.
bool combines(char32_t c) {
    return c >= 0x300 && c <= 0x36F;
}

bool is_alphanumeric(char32_t c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// Calls f(code point, bytes) for each character; bytes that are none have no code point.
template <typename F>
void for_each_character(std::string_view text, F f) {
    while (!text.empty()) {
        const utf8_head head = read_utf8(text);
        const std::string_view bytes = text.substr(0, head.length);
        f(head.valid ? std::optional(code_point(bytes)) : std::nullopt, bytes);
        text.remove_prefix(head.length);
    }
}

// The next letter or digit of its sort, the first behind the last.
char32_t other(char32_t c) {
    for (const auto & [first, last] : {std::pair<char32_t, char32_t>{'0', '9'}, {'a', 'z'}, {'A', 'Z'}}) {
        if (c >= first && c <= last) {
            return c == last ? first : c + 1;
        }
    }
    return c;
}

}  // namespace

control_alphabet::control_alphabet(const tokenizer & tok, std::span<const int32_t> user_defined)
    : tokens(tok.control_texts(user_defined)) {
    for (const std::string & token : tokens) {
        std::u32string characters;
        for_each_character(token, [&](std::optional<char32_t> c, std::string_view) {
            if (c) {
                characters += *c;
            }
        });
        if (characters.find_first_of(U" \u2581") != std::u32string::npos) {  // one is written for the other
            characters += U" \u2581";
        }
        std::u32string telling;
        std::ranges::copy_if(characters, std::back_inserter(telling),
                             [&](char32_t c) { return !is_alphanumeric(c) && c != 0x2581 && !shapes_text(c, ""); });
        const std::u32string & chosen = telling.empty() ? characters : telling;
        all.insert(characters.begin(), characters.end());
        marks.insert(chosen.begin(), chosen.end());
    }
}

bool control_alphabet::in_any(std::string_view text) const {
    bool found = false;
    for_each_character(text, [&](std::optional<char32_t> c, std::string_view) {  //
        found = found || !c || all.contains(*c);
    });
    return found;
}

disguise::disguise(kind which, const control_alphabet & control, const template_words & words,
                   const std::set<char32_t> & taken)
    : kind_(which), control_(control), words_(words), taken_(taken) {
    if (kind_ != kind::most && kind_ != kind::harmless) {
        return;
    }
    constexpr size_t shortest_word = 3;  // shorter ones are in any text
    for (const std::string & literal : words.literals) {
        bool has_marks = false;
        for_each_character(literal, [&](std::optional<char32_t> c, std::string_view) {
            has_marks = has_marks || (c && control.marks.contains(*c));
        });
        const bool is_part = std::ranges::any_of(control.tokens, [&](const std::string & token) {
            return token.find(literal) != std::string::npos || literal.find(token) != std::string::npos;
        });
        const bool wanted = kind_ == kind::most ? has_marks && !is_part : !has_marks && literal.size() >= shortest_word;
        if (wanted) {
            kept_[static_cast<uint8_t>(literal[0])].push_back(literal);
        }
    }
    for (auto & words_of_byte : kept_) {
        std::ranges::stable_sort(words_of_byte, std::greater<>(), &std::string_view::size);
    }
}

size_t disguise::kept_at(std::string_view rest) const {
    for (const std::string_view word : kept_[static_cast<uint8_t>(rest[0])]) {
        if (rest.starts_with(word)) {
            return word.size();
        }
    }
    return 0;
}

bool disguise::is_hidden(char32_t c, std::string_view bytes) const {
    switch (kind_) {
        case kind::none:
            return false;
        case kind::all:
            return control_.all.contains(c) || !shapes_text(c, bytes);
        case kind::control:
            return control_.all.contains(c);
        case kind::marks:
        case kind::most:
        case kind::harmless:
            return control_.marks.contains(c);
    }
    return false;
}

char32_t disguise::stand_in(char32_t c) {
    const auto known = to_.find(c);
    if (known != to_.end()) {
        return known->second;
    }
    while (taken_.contains(next_) || !is_private_use(next_)) {
        next_ = next_ == bmp_last + 1 ? plane_first : next_ == plane_last + 1 ? last_plane_first : next_ + 1;
        if (next_ > last_plane_last) {
            full_ = true;
            next_ = last_plane_last;
            return c;
        }
    }
    to_[c] = next_;
    from_[next_] = c;
    return next_++;
}

std::string disguise::text(std::string_view given) {
    if (kind_ == kind::none) {
        return std::string(given);
    }
    std::string out;
    while (!given.empty()) {
        const size_t n_kept = kept_at(given);
        if (n_kept > 0) {
            out += given.substr(0, n_kept);
            given.remove_prefix(n_kept);
            continue;
        }
        const utf8_head head = read_utf8(given);
        const std::string_view bytes = given.substr(0, head.length);
        given.remove_prefix(head.length);
        const char32_t c = head.valid ? code_point(bytes) : 0;
        if (head.valid && is_hidden(c, bytes)) {
            append_utf8(out, stand_in(c));
        } else if (kind_ == kind::harmless && is_alphanumeric(c)) {
            append_utf8(out, other(c));
        } else {
            out += bytes;
        }
    }
    return out;
}

std::string disguise::key(const std::string & given) {
    return words_.keys.contains(given) ? given : text(given);
}

std::string disguise::back(std::string_view disguised) const {
    return str(pieces(disguised));
}

chat_text disguise::pieces(std::string_view disguised) const {
    chat_text out;
    for_each_character(disguised, [&](std::optional<char32_t> c, std::string_view bytes) {
        const auto hidden = c ? from_.find(*c) : from_.end();
        const bool is_hidden = hidden != from_.end();
        const bool is_given = is_hidden || (c && combines(*c) && !out.empty() && out.back().from_message);
        if (out.empty() || out.back().from_message != is_given) {
            out.push_back({"", is_given});
        }
        if (is_hidden) {
            append_utf8(out.back().text, hidden->second);
        } else {
            out.back().text += bytes;
        }
    });
    return out;
}

void add_private_use(std::string_view text, std::set<char32_t> & taken) {
    for_each_character(text, [&](std::optional<char32_t> c, std::string_view) {
        if (c && is_private_use(*c)) {
            taken.insert(*c);
        }
    });
}

}  // namespace livekv
