#pragma once

#include "kernels/seal.h"
#include "policy/chunked.h"
#include "store/kv_layer.h"

namespace livekv {

// Policy kivi: one kv head's keys, or values, of a chunk into a block, whose header is written (chunk_plan::header).
// error: what was lost is added to it, or null.
void seal_kivi_rows(const kv_block_header & header, const cpu_kernels & kernels, const chunk_rows & rows,
                    uint8_t * block, kv_error_sums * error);

// Seals what values are exact in all chunks of a layer but the newest, as passes would have done that closed these
// chunks. Throws std::bad_alloc.
void seal_older_values(const chunk_plan & plan, const cpu_kernels & kernels, kv_layer & layer);

}  // namespace livekv
