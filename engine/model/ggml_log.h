#pragma once

#include <string>

namespace livekv {

// ggml prints to stderr by default. From the first call on, its messages are kept instead: take_ggml_errors() returns
// the warnings and errors logged on this thread since the last call, on one line.
void silence_ggml();
std::string take_ggml_errors();

}  // namespace livekv
