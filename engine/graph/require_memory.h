#pragma once

#include <cstddef>
#include <cstdlib>

#include "error.h"

namespace livekv {

// ggml ends the process where it is refused memory for its own bookkeeping: asked for here first. Throws livekv::error.
inline void require_memory(size_t bytes) {
    void * volatile trial = std::malloc(bytes);  // volatile: not to be optimized away
    if (!trial) {
        fail("not enough memory to compute");
    }
    std::free(trial);
}

}  // namespace livekv
