#include "run/guide_step.h"

#include <algorithm>

#include "kv/f16.h"
#include "kv/kv_pack.h"
#include "kv/level_block.h"

namespace livekv {

namespace {

// The guide's keys while they are collected.
struct collected_keys {
    size_t n;                    // positions of the guide
    size_t d;                    // head_dim
    std::vector<float> rows;     // f32 [n_head_kv, n, head_dim]
    std::vector<uint8_t> found;  // [n]

    collected_keys(const chunk_plan & plan, int64_t n_guide)
        : n(static_cast<size_t>(n_guide)), d(static_cast<size_t>(plan.head_dim)), rows(n * plan.row()), found(n) {}

    float * row(size_t head, size_t position) { return rows.data() + (head * n + position) * d; }

    // f16 [n_rows, n_head_kv, head_dim], of the positions from first on.
    void take_rows(const uint16_t * from, size_t first, size_t n_rows, size_t n_heads) {
        for (size_t i = 0; first + i < n && i < n_rows; ++i) {
            for (size_t c = 0; c < n_heads * d; ++c) {
                row(c / d, first + i)[c % d] = f16_to_f32(from[i * n_heads * d + c]);
            }
            found[first + i] = 1;
        }
    }

    // What is left of a chunk in blocks of levels.
    void take_levels(const kv_chunk & chunk, size_t first, size_t n_heads) {
        for (size_t head = 0; head < n_heads; ++head) {
            const uint8_t * const block = chunk.k.bytes->data() + chunk.k.bytes->bytes() / n_heads * head;
            const std::vector<float> x = unpack_levels(block);
            for (size_t i = 0; first + i < n && i < static_cast<size_t>(chunk.n_tokens); ++i) {
                if (level_of_token(block, static_cast<int32_t>(i)) != kv_no_level) {
                    std::copy_n(x.data() + i * d, d, row(head, first + i));
                    found[first + i] = 1;
                }
            }
        }
    }
};

}  // namespace

guide_keys guide_of(const layer_step & step) {
    const chunk_plan & plan = *step.plan;
    const kv_layer & layer = *step.layer;
    const guided_plan & guided = *plan.guided;
    const size_t n_heads = static_cast<size_t>(plan.n_head_kv);
    collected_keys keys(plan, guided_place_of(guided.method, guided.layer, guided.n_layer, step.n_prompt).n_guide);
    size_t first = 0;
    for (const kv_chunk & c : layer.chunks) {
        if (first >= keys.n) {
            break;
        }
        if (c.k.sealed()) {
            keys.take_levels(c, first, n_heads);
        } else {
            keys.take_rows(c.k.bytes->as<uint16_t>(), first, static_cast<size_t>(c.n_tokens), n_heads);
        }
        first += static_cast<size_t>(c.n_tokens);
    }
    if (!layer.chunks.empty()) {
        const kv_chunk & front = layer.chunks.front();
        keys.take_rows(layer.sinks.k.data(), 0, static_cast<size_t>(std::min(front.n_sinks, front.n_tokens)), n_heads);
    }
    keys.take_rows(step.k_rows, static_cast<size_t>(layer.n_chunked), static_cast<size_t>(step.n_open()), n_heads);
    guide_keys guide;
    for (size_t i = 0; i < keys.n; ++i) {
        if (keys.found[i]) {
            guide.positions.push_back(static_cast<int64_t>(i));
        }
    }
    for (size_t head = 0; head < n_heads; ++head) {
        for (size_t c = 0; c < keys.d; ++c) {
            for (const int64_t position : guide.positions) {
                guide.k.push_back(keys.row(head, static_cast<size_t>(position))[c]);
            }
        }
    }
    return guide;
}

void weigh_token(const layer_step & step, const guided_queries & queries, int64_t i, const guide_keys & guide,
                 std::span<float> scratch) {
    step.layer->tail_weights.data()[step.layer->n_tail + i] = weight_given_to_guide(queries, i, guide, scratch);
}

}  // namespace livekv
