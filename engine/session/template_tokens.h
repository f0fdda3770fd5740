#pragma once

#include <jinja/lexer.h>

#include <string>
#include <string_view>

namespace livekv {

// What begins the name of an operator that goes on with the comparison before it: a < b <= c.
inline constexpr std::string_view chained = "chained ";

// The tokens of a template, so that the engine's parser reads them as jinja2's does: "//" is one operator, a sign
// belongs to the number behind it, and a comparison that goes on with the one before it has the mark above. Throws
// livekv::error for "**", which it has no precedence for, and what the engine's lexer throws.
jinja::lexer_result template_tokens(std::string source);

}  // namespace livekv
