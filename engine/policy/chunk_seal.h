#pragma once

#include <cstdint>
#include <span>

#include "kernels/seal.h"
#include "policy/chunked.h"
#include "policy/query_squares.h"

namespace livekv {

// Exact keys of an older chunk, one kv head, and where their block goes.
struct late_keys {
    chunk_rows rows;
    uint8_t * block;
};

// One kv head's keys of a chunk that closes. before: the head's state after the chunk before, empty: there is none;
// after: this chunk's, [chunk_plan's floats of a head], empty: nothing reads it; queries: up to the chunk's end, where
// the plan reads them; query_means: of the chunk [n, head_dim], for error feedback, or empty; block: where the keys go,
// or null: they stay exact. The late ones are sealed with this chunk's statistics. error: what was lost is added to it,
// or null.
void seal_chunk_keys(const chunk_plan & plan, const cpu_kernels & kernels, const chunk_rows & rows,
                     std::span<const float> before, std::span<float> after, const query_squares & queries,
                     std::span<const float> query_means, uint8_t * block, std::span<const late_keys> late,
                     kv_error_sums * error);

// Adds to error, unless null, what a block has lost of the rows that are in it.
void note_error(const cpu_kernels & kernels, const chunk_rows & rows, const uint8_t * block, int64_t n_saturated,
                kv_error_sums * error);

// The same head's values.
void seal_chunk_values(const chunk_plan & plan, const cpu_kernels & kernels, const chunk_rows & rows, uint8_t * block,
                       kv_error_sums * error);

}  // namespace livekv
