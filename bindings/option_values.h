#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <string>

#include "livekv.h"

namespace livekv {

namespace py = pybind11;

// Cache options from Python's values by field, on top of a preset's where there is one. Throws kv_option_error for a
// value that its field cannot have, or that check() refuses, and livekv::error for a field there is not.
kv_options kv_options_from(const py::dict & values, const std::optional<std::string> & preset);

// All fields, by name: bool, int, float, str for enumerators and for words that stand for numbers; bits of codes are an
// int, or a tuple for keys and values.
py::dict values_of(const kv_options & options);

}  // namespace livekv
