#include "model/characters.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <memory>

#include "error.h"
#include "utf8.h"

namespace livekv {

namespace {

// Whether one character is of a class of Unicode's.
class character_class {
  public:
    explicit character_class(const char * expression) {
        int code = 0;
        PCRE2_SIZE offset = 0;
        code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression), PCRE2_ZERO_TERMINATED,
                                  PCRE2_UTF | PCRE2_UCP, &code, &offset, nullptr));
        LIVEKV_ASSERT(code_);
    }

    bool has(std::string_view character) const {
        const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
            pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
        LIVEKV_ASSERT(data);
        return pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(character.data()), character.size(), 0,
                           PCRE2_NO_UTF_CHECK, data.get(), nullptr) > 0;
    }

  private:
    std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)> code_{nullptr, pcre2_code_free};
};

bool is_word(std::string_view character) {
    static const character_class words(R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200C}\x{200D}])");
    return words.has(character);
}

bool is_white_space(std::string_view character) {
    static const character_class spaces(R"(\p{White_Space})");
    return spaces.has(character);
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
