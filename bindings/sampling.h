#pragma once

#include <pybind11/pybind11.h>

#include "livekv.h"

namespace livekv {

namespace py = pybind11;

// Sampling options from Python's values by field; what is left out stays at its default. Throws livekv::error, with the
// field's name, for a value that is no number, one that check() refuses, and a field there is not.
sampler_params sampling_from(const py::dict & values);

// The defaults of all of them, by field.
py::dict sampling_defaults();

}  // namespace livekv
