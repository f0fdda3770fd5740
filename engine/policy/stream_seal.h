#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cpu/kernels.h"
#include "kv/kv_stream.h"
#include "store/kv_layer.h"

namespace livekv {

// The keys, or the values, of a chunk that closes, of all kv heads.
struct stream_rows {
    kv_side side;
    const uint16_t * rows = nullptr;  // f16 [n_tokens, n_head_kv, head_dim]; keys before RoPE where they are kept so
    int64_t n_tokens = 0;
    int64_t n_head_kv = 0;
    int64_t head_dim = 0;
    int64_t n_sinks = 0;  // first tokens, which go into rows of their own
    int64_t index = 0;    // of the chunk in its sequence
};

// Policy kvstream: moves the running maxima and seals what they say. Blocks have one size: heads with fewer flagged
// channels than another get more quads of high width. Sinks are kept as f16 rows of what their codes stand for: of few
// tokens, codes and scales would take no less. floats of a head in a state are state_stride apart; before: the state
// after the chunk before, at this side's first float, or null; after: this chunk's. sinks: f16 [n_sinks, n_head_kv,
// head_dim]. errors: [n_head_kv], or empty: not measured. Throws std::bad_alloc.
kv_chunk_side seal_stream_chunk(const stream_method & method, const cpu_kernels & kernels, const stream_rows & chunk,
                                const float * before, float * after, size_t state_stride, uint16_t * sinks,
                                std::span<kv_error_sums> errors);

}  // namespace livekv
