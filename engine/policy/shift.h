#pragma once

#include <cstdint>

#include "kernels/cpu/kernels.h"
#include "policy/chunked.h"

namespace livekv {

// Consecutive tokens of a sequence.
struct token_run {
    int64_t first = 0;
    int64_t n = 0;

    int64_t end() const { return first + n; }
};

// Whole chunks of a layer, behind the one that has token n_keep - 1 (n_keep >= 1): as few as have n_wanted tokens, n 0
// where there are none such. Nothing that a window still reaches may have been given back.
token_run shiftable(const chunk_plan & plan, const kv_layer & layer, int64_t n_keep, int64_t n_wanted);

// A context shift: the layer, in the host's memory, without these tokens, which are whole chunks behind the first. What
// lies behind them moves to their positions. Keys that are kept before RoPE need nothing for that; others are turned
// back by as many positions, and sealed again where they were sealed, by the statistics after the chunk that is now
// before them and by the widths that its own queries asked for. Throws std::bad_alloc.
kv_layer shifted(const chunk_plan & plan, const cpu_kernels & kernels, const rope_params & rope, const kv_layer & layer,
                 const token_run & leaving);

}  // namespace livekv
