#pragma once

#include <memory>

#include "run/dense_cache.h"

namespace livekv {

// An empty cache of the options' policy. where: [n_layer], for policies whose rows are ggml's. Throws kv_option_error,
// livekv::error for what the policy cannot store, and for too little memory.
std::unique_ptr<kv_cache> make_kv_cache(const kv_options & options, const kv_shape & shape,
                                        const kv_buffer_types & where);

}  // namespace livekv
