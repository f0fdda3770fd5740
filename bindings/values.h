#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <string>

// Numbers of Python as C++ has them, where a bool is not one and text never is.
namespace livekv {

namespace py = pybind11;

// None when it is no whole number, or not in 64 bits.
std::optional<int64_t> whole_from(py::handle value);

// None when it is no number; NaN and infinities are some.
std::optional<double> real_from(py::handle value);

// How a message shows a value: as Python writes it, in one short line.
std::string shown(py::handle value);

}  // namespace livekv
