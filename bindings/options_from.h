#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "session/session.h"

namespace livekv {

namespace py = pybind11;

// Cache options from the arguments a tool would be given: {"--kv", "f16", "--chunk-size", "256"}. Throws livekv::error
// as the tools do.
kv_options kv_options_from(const std::vector<std::string> & arguments);

// The same with the rest of what a session is told, checked likewise.
session_params session_params_from(int64_t n_ctx, int64_t n_threads, const std::vector<std::string> & kv);

// Every cache option as the command line's help has it, one dict each, with the values of `options` as defaults; a
// flag's are "on" and "off".
py::list kv_option_rows(kv_options options);

}  // namespace livekv
