#pragma once

#include <optional>
#include <string>

#include "session/template_functions.h"

namespace livekv {

// Parts of list_function, which says what they throw.

// a.b.c, as the filters' attribute has it; a number is a place in a list.
jinja::value attribute_of(jinja::value v, const jinja::value & attribute);

// The filters sort, dictsort, min and max. None: name is none of them.
std::optional<jinja::value> sort_function(const std::string & name, const jinja::value & input,
                                          const given_arguments & arguments);

}  // namespace livekv
