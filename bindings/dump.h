#pragma once

#include <pybind11/pybind11.h>

#include "store/kv_dump.h"

namespace livekv {

// The arrays of one side of a layer, of n_head_kv heads, under the names that livekv.Session.kv_dump documents.
pybind11::dict dump_arrays(const kv_side_dump & side, bool keys, int64_t n_head_kv, int64_t head_dim);

}  // namespace livekv
