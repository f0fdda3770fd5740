#pragma once

#include <cstdint>
#include <span>

#include "kernels/cpu/kernels.h"
#include "policy/chunked.h"
#include "store/kv_layer.h"

namespace livekv {

// What the options' calibration says of each layer. Throws kv_option_error for the file's bits, livekv::error, naming
// the file, when it cannot be read or is of another model.
std::shared_ptr<const kv_calibration> calibration_for(const kv_options & options, const kv_shape & shape);

// Policy kvquant: the keys, or the values, of a chunk that closes, of all kv heads: rows f16 [n_tokens, n_head_kv,
// head_dim], keys before RoPE, the first n_sinks of which have rows of their own. Blocks have one size, with room for
// what the head with most outliers has. errors: [n_head_kv], or empty: not measured. Throws std::bad_alloc.
kv_chunk_side seal_kvquant_chunk(const chunk_plan & plan, kv_side side, const cpu_kernels & kernels,
                                 const uint16_t * rows, int64_t n_tokens, int64_t n_sinks,
                                 std::span<kv_error_sums> errors);

}  // namespace livekv
