#pragma once

#include <jinja/value.h>

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace livekv {

// A text of the engine's in one piece, with what is known of where it came from.
class marked_text {
  public:
    explicit marked_text(const jinja::string & text);

    const std::string & str() const { return text_; }
    jinja::string cut(size_t from, size_t to) const;  // bytes
    jinja::string whole() const { return cut(0, text_.size()); }

    std::vector<size_t> characters() const;  // where each begins, and the end
    bool is_given(size_t at) const;          // of the conversation, as far as the engine knows

  private:
    struct part {
        size_t end;
        bool is_given;
    };
    std::string text_;
    std::vector<part> parts_;
};

// Behind out; neighbours of one origin become one part.
void append_bytes(jinja::string & out, std::string text, bool is_given = false);
// text between quotes, each character as write has it.
void append_quoted(jinja::string & out, const jinja::string & text, char quote,
                   const std::function<std::string(std::string_view)> & write);

// As repr(float): the shortest digits that give x again, with an exponent below 1e-4 and from 1e16 on.
std::string float_repr(double x);
std::string escape(const char * mark, size_t n_digits, char32_t c);  // c in hexadecimal behind mark

// As Python's str and repr of the same value. Throw jinja::raised_exception for a function. A none that is written as a
// text counts as used (stats).
jinja::string python_str(const jinja::value & v);
jinja::string python_repr(const jinja::value & v);

// As json.dumps(ensure_ascii=False) of Python; indent < 0: on one line.
struct json_form {
    int indent = -1;
    bool ensure_ascii = false;
    bool sort_keys = false;
    std::string item_separator = ", ";
    std::string key_separator = ": ";
};
jinja::string python_json(const jinja::value & v, const json_form & form);

// A character's bytes. white space: as str.isspace of Python.
bool is_python_space(std::string_view character);
bool is_printable_character(std::string_view character);  // as str.isprintable

// As str.upper and str.lower. Throw jinja::raised_exception where Python makes several characters of one, or looks at
// its neighbours: not done here.
std::string upper_case(std::string_view text);
std::string lower_case(std::string_view text);
bool has_case(std::string_view character);

}  // namespace livekv
