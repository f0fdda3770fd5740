#pragma once

#include "livekv.h"

namespace livekv {

// What a session is told, checked.
session_params session_params_from(int64_t n_ctx, int64_t n_threads, const kv_options & kv);

}  // namespace livekv
