#pragma once

// What kernels on the device are given: plain data, pointers to the device's memory.

#include <cstddef>
#include <cstdint>

#include "error.h"
#include "kv/class_grid.h"
#include "kv/kv_block.h"
#include "kv/kv_method.h"
#include "kv/kv_state.h"

namespace livekv {

// One side of a stretch of tokens. The sections' offsets are kv_map's, said once by the host.
struct device_side {
    const uint8_t * data = nullptr;  // [n_head_kv] blocks; or f16 rows [n_stored, n_head_kv, head_dim]
    uint32_t block_bytes = 0;        // 0: rows
    uint32_t outliers = 0;
    uint32_t index = 0;
    uint32_t tiles = 0;
    uint32_t centres = 0;  // 0: there are none
    uint32_t codes = 0;
    uint32_t minima = 0;  // of keys whose channels stand in classes of width, as order and widths; else 0
    uint32_t order = 0;
    uint32_t widths = 0;
    uint16_t width_sum = 0;
    uint16_t n_stored = 0;
    uint16_t group = 0;
    uint16_t n_outliers = 0;
    uint8_t bits = 0;
    uint8_t index_bytes = 0;

    LIVEKV_HD bool has_classes() const { return minima != 0; }
};

// Stands for the width of keys whose channels have widths of their own.
constexpr int32_t bits_by_class = -1;

inline int32_t key_width(const kv_method & method) {
    return method.key_classes ? bits_by_class : method.k_bits;
}

// Blocks of these headers, one a kv head.
inline device_side side_of_blocks(const uint8_t * data, const kv_block_header & h) {
    const kv_block_map m = kv_map(h);
    device_side s;
    s.data = data;
    s.block_bytes = static_cast<uint32_t>(m.bytes);
    s.outliers = static_cast<uint32_t>(m.outliers);
    s.index = static_cast<uint32_t>(m.index);
    s.tiles = static_cast<uint32_t>(m.tiles);
    s.centres = h.has_centres ? static_cast<uint32_t>(m.centres) : 0;
    s.codes = static_cast<uint32_t>(m.codes);
    if (h.has_classes()) {
        LIVEKV_ASSERT(h.width_sum <= widest_class * (h.head_dim / 4));  // the kernels' room for a tile's bricks
        s.minima = static_cast<uint32_t>(m.minima);
        s.order = static_cast<uint32_t>(m.order);
        s.widths = static_cast<uint32_t>(m.widths);
        s.width_sum = h.width_sum;
    }
    s.n_stored = h.n_tokens;
    s.group = h.group;
    s.n_outliers = h.n_outliers;
    s.bits = h.bits;
    s.index_bytes = static_cast<uint8_t>(m.index_bytes);
    return s;
}

// Consecutive tokens that are stored alike: a chunk, the sinks or what is still open.
struct device_chunk {
    device_side k;
    device_side v;
    int32_t n_tokens = 0;  // to be read
    int32_t n_skip = 0;    // of these, first ones that are not
    int64_t first_tile = 0;
};

// Attention of a layer's new tokens, as attention_args says it. Tiles of 32 tokens are numbered through the chunks,
// then the sinks, then the open tokens, which end with the new ones.
struct device_attention {
    const float * q = nullptr;  // [n_tokens, n_head, head_dim]
    float * out = nullptr;      // [n_tokens, n_head, head_dim]
    int32_t n_tokens = 0;
    int32_t n_head = 0;
    int32_t n_head_kv = 0;
    int32_t head_dim = 0;
    int32_t k_rotation = 0;
    int32_t v_rotation = 0;
    float scale = 0.0f;

    const device_chunk * chunks = nullptr;  // [n_chunks]
    int32_t n_chunks = 0;
    int32_t tiles_per_chunk = 1;  // of most: where to look first
    int64_t n_chunk_tiles = 0;
    int32_t v_outliers = 0;  // of sealed chunks, per token
    device_chunk sinks;
    device_chunk open;

    // Partial results of spans of the context (softmax_state), one a (span, kv head, row); workspace, whatever the
    // context.
    float * partial_o = nullptr;  // [n_spans, n_head_kv, n_rows, head_dim]
    float * partial_m = nullptr;  // [n_spans, n_head_kv, n_rows]
    float * partial_l = nullptr;  // the same
    int32_t n_spans = 1;

    LIVEKV_HD int32_t group() const { return n_head / n_head_kv; }
    LIVEKV_HD int32_t n_rows() const { return n_tokens * group(); }  // of a kv head; row r: token r / group
    LIVEKV_HD int64_t sinks_tile() const { return n_chunk_tiles; }
    LIVEKV_HD int64_t open_tile() const { return n_chunk_tiles + (sinks.n_tokens > 0 ? 1 : 0); }
    LIVEKV_HD int64_t n_tiles() const { return open_tile() + (open.n_tokens + kv_tile_tokens - 1) / kv_tile_tokens; }
    LIVEKV_HD int64_t state_of(int32_t span, int32_t head, int32_t row) const {
        return (static_cast<int64_t>(span) * n_head_kv + head) * n_rows() + row;
    }
};

// Rows of keys and of values: f32 [head_dim] to f16, rotated. bad: set to the smallest token of the pass where a value
// is not finite in f16.
struct device_store {
    struct one_side {
        const float * from = nullptr;  // [n_tokens] rows of [n_head_kv, head_dim], `stride` floats apart
        size_t stride = 0;
        uint16_t * to = nullptr;  // [n_tokens, n_head_kv, head_dim]
        int32_t rotation = 0;
    } sides[2];
    int32_t n_tokens = 0;
    int32_t n_head_kv = 0;
    int32_t head_dim = 0;
    uint32_t * bad = nullptr;
};

// Rows to be looked at: `first` + i becomes *bad, where that was more, of a row i with a value that is not a number or
// beyond `largest`.
struct device_rows {
    const float * from = nullptr;  // n_rows of n_values, `stride` floats apart
    size_t stride = 0;
    int32_t n_rows = 0;
    int32_t n_values = 0;
    float largest = 0.0f;
    uint32_t first = 0;
    uint32_t * bad = nullptr;
};

// Of a key group's channel: the lowest and the highest, and the sums of what each is above the lowest and of its
// squares; zeros of no token.
struct device_moments {
    float low = 0.0f;
    float high = 0.0f;
    float sum = 0.0f;
    float squares = 0.0f;
};

// One chunk of a layer to be sealed, and the statistics it moves.
struct device_seal {
    const uint16_t * k = nullptr;  // f16 [n, n_head_kv, head_dim]
    const uint16_t * v = nullptr;
    uint8_t * k_blocks = nullptr;  // [n_head_kv] blocks, or null: keys stay exact
    uint8_t * v_blocks = nullptr;
    const void * old_state = nullptr;  // [n_head_kv, state_floats] as kv/kv_state.h has them; null: none before
    void * new_state = nullptr;        // null: keys are sealed by what the call before found
    int32_t state_floats = 0;          // of a head, as chunk_plan has them

    // Where the method gives channels widths of their own, and there is a new_state: queries of the chunk's tokens.
    const float * q = nullptr;               // [n_new, n_head, head_dim], of the last n_new
    const uint8_t * tail_queries = nullptr;  // [n_tokens - n_new, n_head_kv, head_dim], of the others (pack_queries)
    int32_t n_new = 0;
    int32_t n_head = 0;    // with error feedback, in every call
    int64_t n_before = 0;  // tokens before the chunk

    int32_t n_tokens = 0;
    int32_t n_head_kv = 0;
    int32_t head_dim = 0;
    int32_t n_sinks = 0;
    kv_method method;
    kv_block_header k_header;
    kv_block_header v_header;
    kv_block_map k_map;
    kv_block_map v_map;

    // Workspace: see seal_words.
    uint32_t * tickets = nullptr;  // [n_head_kv], zeros, and left so
    float * bounds = nullptr;      // [n_head_kv, head_dim] N mu_(t-1), of the last call with a new_state
    uint32_t * apart = nullptr;    // [n_head_kv, n_tokens, n_slabs] bits: which of a slab's channels are outliers
    uint32_t * found = nullptr;    // [n_head_kv, head_dim, n_outliers] token << 16 | value in f16
    int32_t slab = 32;             // channels a block of threads takes

    // Of channels with widths of their own, in place of the last three.
    float * q2 = nullptr;                // [n_head_kv, head_dim] mean squares, of the last call with a new_state
    device_moments * moments = nullptr;  // [n_head_kv, n_groups, head_dim]

    // With error feedback (key_feedback.h) too; r query heads share a kv head.
    float * means = nullptr;    // [n_head, head_dim] mean queries, of the last call with a new_state
    float * gain = nullptr;     // [n_head_kv, head_dim, r], in the block's order
    float * weight = nullptr;   // the same
    double * spread = nullptr;  // [n_head_kv, r + 1, r]

    LIVEKV_HD int32_t group() const { return n_head / n_head_kv; }

    LIVEKV_HD float state_before(size_t i) const { return state_number(old_state, state_is_f16(method), i); }
    LIVEKV_HD void put_state(size_t i, float x) const { put_state_number(new_state, state_is_f16(method), i, x); }
};

}  // namespace livekv
