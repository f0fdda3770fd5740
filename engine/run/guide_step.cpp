#include "run/guide_step.h"

#include <algorithm>

#include "error.h"
#include "kv/f16.h"
#include "kv/kv_pack.h"
#include "kv/level_block.h"
#include "policy/guided_seal.h"
#include "store/tail_weights.h"

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

    // f16 [n_head_kv, head_dim]; of a position behind the guide, nothing.
    void take_row(const uint16_t * from, size_t position, size_t n_heads) {
        if (position < n) {
            for (size_t c = 0; c < n_heads * d; ++c) {
                row(c / d, position)[c % d] = f16_to_f32(from[c]);
            }
            found[position] = 1;
        }
    }

    // f16 [n_rows, n_head_kv, head_dim], of the positions from first on.
    void take_rows(const uint16_t * from, size_t first, size_t n_rows, size_t n_heads) {
        for (size_t i = 0; first + i < n && i < n_rows; ++i) {
            take_row(from + i * n_heads * d, first + i, n_heads);
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

// Which of the open chunk's tokens the open rows are of, [n_open_rows()].
std::vector<int32_t> tokens_of_rows(const layer_step & step) {
    const kv_layer & layer = *step.layer;
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < layer.n_tail; ++i) {
        if (tail_weight::is_held(layer.tail_weights.data()[i])) {
            tokens.push_back(static_cast<int32_t>(i));
        }
    }
    for (int64_t i = 0; i < step.n_rows(); ++i) {
        tokens.push_back(static_cast<int32_t>(layer.n_tail + step.token_of_row(i)));
    }
    return tokens;
}

// The guide's keys as the pass's tokens see them, as far as they are stored already or come with it.
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
    if (static_cast<size_t>(layer.n_chunked) < keys.n) {
        const uint16_t * from = step.k_rows;
        for (const int32_t token : tokens_of_rows(step)) {
            keys.take_row(from, static_cast<size_t>(layer.n_chunked + token), n_heads);
            from += plan.row();
        }
    }
    guide_keys guide;
    for (size_t i = 0; i < keys.n; ++i) {
        if (keys.found[i]) {
            guide.positions.push_back(static_cast<int64_t>(i));
        }
    }
    guide.k.resize(n_heads * keys.d * guide.stride());
    for (size_t head = 0; head < n_heads; ++head) {
        for (size_t i = 0; i < guide.positions.size(); ++i) {
            const float * const row = keys.row(head, static_cast<size_t>(guide.positions[i]));
            for (size_t c = 0; c < keys.d; ++c) {
                guide.k[(head * keys.d + c) * guide.stride() + i] = row[c];
            }
        }
    }
    return guide;
}

}  // namespace

void choose_going_on(layer_step & step) {
    if (!step.going) {  // of another policy, perhaps, in a pass with one that does
        return;
    }
    const int64_t il = step.plan->guided->layer;
    if (!step.going->lets_go(il)) {
        return;
    }
    kv_layer & layer = *step.layer;
    const page * const before = layer.chunks.empty() ? nullptr : layer.chunks.back().state.get();
    step.going->choose(il, {layer.tail_weights.data(), static_cast<size_t>(step.n_open())},
                       guided_state::load(before ? before->as<float>() : nullptr));
}

void seal_guided_side(layer_step & step, const cpu_kernels & kernels, kv_side side) {
    const chunk_plan & plan = *step.plan;
    const bool key = side == kv_side::key;
    const kv_layer & layer = *step.layer;
    kv_chunk & closed = step.closed;
    const page * const before = layer.chunks.empty() ? nullptr : layer.chunks.back().state.get();
    const std::span weights(layer.tail_weights.data(), static_cast<size_t>(closed.n_stored));
    const guided_decision decided = decide_chunk(*plan.guided, step.n_prompt, layer.n_chunked, closed.n_sinks, weights,
                                                 guided_state::load(before ? before->as<float>() : nullptr));
    if (key) {
        decided.after.store(closed.state->as<float>());
    }
    seal_guided_rows(step, kernels, side, decided.bits, step.errors_of(side));
}

void seal_guided_rows(layer_step & step, const cpu_kernels & kernels, kv_side side, std::span<const uint8_t> bits,
                      std::span<kv_error_sums> errors) {
    const chunk_plan & plan = *step.plan;
    const bool key = side == kv_side::key;
    kv_chunk & closed = step.closed;
    const uint16_t * const rows = key ? step.k_rows : step.v_rows;
    row_buffer & sinks = key ? step.sinks.k : step.sinks.v;
    std::copy_n(rows, sinks.size(), sinks.data());
    std::vector<chunk_rows> heads;
    for (int64_t h = 0; h < plan.n_head_kv; ++h) {
        heads.push_back({rows + h * plan.head_dim, plan.row(), step.n_open_rows(), plan.head_dim, closed.n_sinks});
    }
    (key ? closed.k : closed.v) =
        seal_guided_chunk(plan.guided->method, kernels, side, heads, tokens_of_rows(step), bits, errors);
}

void guide_weigher::clear() {
    parts_.clear();
    n_sums_ = 0;
}

void guide_weigher::reserve(int64_t n_sums) {
    n_sums_ = std::max(n_sums_, static_cast<size_t>(n_sums));
    log_sums_.resize(std::max(log_sums_.size(), n_sums_));
}

float * guide_weigher::add(const layer_step & step, const attention_args & args, int64_t first_row, int64_t first) {
    const size_t n_before = parts_.empty() ? 0 : parts_.back().end_of_sums;
    const size_t n_here = static_cast<size_t>(args.n_tokens) * static_cast<size_t>(args.n_head);
    LIVEKV_ASSERT(n_before + n_here <= log_sums_.size());
    float * const log_sums = log_sums_.data() + n_before;
    guided_queries queries;
    queries.log_sums = log_sums;
    queries.n_head = args.n_head;
    queries.n_head_kv = args.n_head_kv;
    queries.head_dim = args.head_dim;
    queries.scale = args.scale;
    parts_.push_back({&step, queries, {}, first_row, args.n_tokens, first, n_before + n_here});
    return log_sums;
}

void guide_weigher::collect() {
    for (part & p : parts_) {
        p.guide = guide_of(*p.step);
    }
}

void guide_weigher::weigh(const cpu_kernels & kernels, const float * q, int64_t ith, int64_t nth) const {
    for (const part & p : parts_) {
        guided_queries queries = p.queries;
        queries.q = q + p.first_row * queries.n_head * queries.head_dim;
        kv_layer & layer = *p.step->layer;
        float * const weights = layer.tail_weights.data() + layer.n_tail;
        for (int64_t i = ith; i < p.n_rows; i += nth) {
            const int64_t token = p.step->token_of_row(i);
            if (p.step->comes_in(token)) {
                weights[token] = kernels.weight_on_guide(view_of_guide(queries, i, p.first + token, p.guide));
            }
        }
    }
}

size_t guide_weigher::bytes() const {
    size_t n = log_sums_.capacity() * sizeof(float);
    for (const part & p : parts_) {
        n += p.guide.k.capacity() * sizeof(float) + p.guide.positions.capacity() * sizeof(int64_t);
    }
    return n;
}

}  // namespace livekv
