#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "session/template_functions.h"
#include "session/template_text.h"

namespace livekv {

// Parts of text_function, which says what they throw.

// v's text; function: for the message where it has none, or is null.
const jinja::string & text_of(const jinja::value & v, const std::string & function);

// The i-th of the characters that begin at the places of at.
std::string_view character(const marked_text & text, const std::vector<size_t> & at, size_t i);

// chars: those that go; null or none: white space.
jinja::string strip(const jinja::string & text, const jinja::value & chars, bool left, bool right);

jinja::string indent(const jinja::string & text, const given_arguments & arguments);
jinja::string format_braces(const jinja::string & form, const given_arguments & arguments);
jinja::string format_percent(const jinja::string & form, const given_arguments & arguments);

// The filters int and float: of plain digits. Other texts that Python may read as a number are refused.
jinja::value number_of(const std::string & name, const jinja::string & text, const given_arguments & arguments);

// The filter round of a number: as Python's round, or with method 'ceil' or 'floor'.
jinja::value rounded(const jinja::value & v, const given_arguments & arguments);

struct stretch {
    size_t from;  // bytes
    size_t to;
};

// Lines as str.splitlines has them, of a text with a line break behind it.
std::vector<stretch> lines_of(const marked_text & text);

// The methods of str that look for another text. None: name is none of them.
std::optional<jinja::value> search_method(const std::string & name, const jinja::string & of,
                                          const given_arguments & arguments);

}  // namespace livekv
