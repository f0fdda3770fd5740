#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "kernels/attention.h"
#include "kv/kv_block.h"
#include "memory/page.h"
#include "memory/raw_rows.h"

namespace livekv {

// A chunk's keys, or its values: blocks [n_head_kv] of one header, or f16 rows [n_stored, n_head_kv, head_dim].
struct kv_chunk_side {
    std::shared_ptr<page> bytes;
    std::optional<kv_block_header> header;  // of the blocks; none: rows

    bool sealed() const { return header.has_value(); }
};

// Consecutive tokens of a layer that were closed together. Nothing of it changes but n_tokens, by a trim, exact keys or
// values that are sealed late, and a prompt's that is sealed anew when it is complete (policy guided).
struct kv_chunk {
    kv_chunk_side k;
    kv_chunk_side v;
    std::shared_ptr<page> state;  // the policy's running state after this chunk; null: it has none, or not known
    int32_t n_stored = 0;         // tokens in the pages
    int32_t n_tokens = 0;         // of these, what a trim left
    int32_t n_absent = 0;         // of these, those that have nothing in the pages: a prompt's of policy fastkv, or a
                                  // context's of finch
    int32_t n_sinks = 0;          // of these, first ones that live in kv_layer::sinks
    bool from_one_pass =
        false;  // read as a prompt, all of it in one pass: another sequence's would have the same bytes

    // Its pages were given back: no token to come sees it.
    bool given_back() const { return !k.bytes; }
};

// What was lost by sealing so far, measured on request.
struct kv_error_sums {
    double signal = 0.0;  // sum of squares of what was sealed
    double noise = 0.0;   // of what is stored for it less that
    int64_t n_saturated = 0;
};

// One layer's keys and values of one sequence, as plain data: closed chunks, the first tokens kept exact, and the raw
// tail. Copying shares the chunks' pages.
struct kv_layer {
    int64_t n_head_kv = 0;
    int64_t head_dim = 0;
    bool state_is_f16 = false;  // of the chunks' states (kv/kv_state.h)
    place * where = &host_memory();
    std::vector<kv_chunk> chunks;
    int64_t n_chunked = 0;                 // tokens in chunks
    raw_rows sinks;                        // [n_sinks of the first chunk] rows
    raw_rows tail;                         // [n_tail_rows()] rows, and room
    growing_buffer<uint8_t> tail_queries;  // the same, as host_step::keep_queries has them; empty: none
    growing_buffer<float> tail_weights;    // [n_tail] of policy guided (store/tail_weights.h), and room; empty: none
    int64_t n_tail = 0;
    std::vector<kv_error_sums> errors;  // [2 * n_head_kv]: keys, then values; empty: not measured
    uint64_t n_edits = 0;               // how often chunks changed otherwise than by one more at the end

    size_t row() const { return static_cast<size_t>(n_head_kv * head_dim); }
    int64_t n_tokens() const { return n_chunked + n_tail; }
    // Of these, those that nothing is kept of (kv_chunk::n_absent), in the first chunk.
    int64_t n_absent() const { return chunks.empty() ? 0 : chunks.front().n_absent; }
    // Of the tail's tokens, those that have rows: all but what tail_weights say is not there.
    int64_t n_tail_rows() const;

    // Gives back the pages of chunks that end at or before this position, but for the newest chunk's.
    void give_back_before(int64_t position) noexcept;

    // Gives back the tail's memory.
    void release_tail() noexcept;

    // Forgets all but the first n tokens, n <= n_tokens().
    void trim(int64_t n) noexcept;

    // The same layer with all its bytes in another place.
    kv_layer copy(place & to) const;

    // What attention reads before the open tokens: sinks, then chunks. Of a layer in the host's memory.
    void append_segments(std::vector<kv_segment> & out) const;
};

}  // namespace livekv
