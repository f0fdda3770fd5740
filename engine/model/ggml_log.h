#pragma once

#include <string>

namespace livekv {

// ggml prints to stderr by default. From the first call on, its messages are kept instead: take_ggml_errors() returns
// the warnings and errors logged since the last call, by any thread, on one line; the first 4096 bytes of them.
void silence_ggml();
std::string take_ggml_errors();

}  // namespace livekv
