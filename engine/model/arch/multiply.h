#pragma once

#include <ggml.h>

#include <map>

namespace livekv {

// The rows of a graph that are packed already, for the next matrix they are multiplied with.
using packed_rows = std::map<const ggml_tensor *, ggml_tensor *>;

// x f32 [n_in, n_rows] times weight [n_in, n_out]: f32 [n_out, n_rows]. By ggml, or by our own products where the
// weight is packed for them; packed receives the rows. On the CPU, a row of x with a value that is not a number gives
// one that is none either.
ggml_tensor * multiply(ggml_context * ctx, ggml_tensor * weight, ggml_tensor * x, packed_rows & packed);

}  // namespace livekv
