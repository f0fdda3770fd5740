#pragma once

#include <string>

namespace livekv {

// Before any other call of ggml. It prints to stderr by default; from the first call on, its messages are kept instead:
// take_ggml_errors() returns the warnings and errors logged since the last call, by any thread, on one line; the first
// 4096 bytes of them. A child of fork finds ggml's locks free. Throws livekv::error and std::bad_alloc.
void set_up_ggml();
std::string take_ggml_errors();

}  // namespace livekv
