#include "run/layer_step.h"

#include <algorithm>
#include <cstring>

#include "kv/kv_pack.h"
#include "kv/kv_state.h"
#include "policy/chunk_seal.h"
#include "policy/guided_seal.h"
#include "policy/kivi_seal.h"
#include "policy/kvquant_seal.h"
#include "policy/query_means.h"
#include "policy/stream_seal.h"
#include "run/guide_step.h"
#include "store/tail_weights.h"

namespace livekv {

kv_chunk_side make_side(const chunk_plan & plan, kv_side side, bool sealed, int64_t n, place & where) {
    kv_chunk_side s;
    size_t bytes = 2 * static_cast<size_t>(n) * plan.row();
    if (sealed) {
        s.header = plan.header(side, n);
        bytes = kv_map(*s.header).bytes * static_cast<size_t>(plan.n_head_kv);
    }
    s.bytes = std::make_shared<page>(where, bytes);
    return s;
}

uint8_t * block_of(const kv_chunk_side & side, int64_t head, int64_t n_head_kv) {
    return side.bytes->data() + side.bytes->bytes() / static_cast<size_t>(n_head_kv) * static_cast<size_t>(head);
}

namespace {

constexpr int64_t tail_step = 64;  // a tail in the host's memory grows by this many tokens

// What queries were up to the end of the chunk that closes.
query_squares squares_of(const layer_step & step, int64_t head, std::span<const float> state,
                         const query_rows & queries) {
    const chunk_plan & plan = *step.plan;
    if (!plan.reads_queries()) {
        return {0, {}, 0};
    }
    const kv_layer & layer = *step.layer;
    query_squares all(plan.head_dim, state.empty() ? state : state.subspan(plan.range_floats()), layer.n_chunked);
    for (int64_t i = 0; i < layer.n_tail; ++i) {
        all.add_packed(layer.tail_queries.data() + static_cast<size_t>(i) * plan.row() + head * plan.head_dim);
    }
    const int64_t group = queries.n_head / plan.n_head_kv;
    for (int64_t i = 0; i < step.n_new; ++i) {
        all.add(queries.q + (i * queries.n_head + head * group) * plan.head_dim, group);
    }
    return all;
}

// The chunk's mean queries, where error feedback reads them.
std::vector<float> means_of(const layer_step & step, int64_t head, const query_rows & queries) {
    const chunk_plan & plan = *step.plan;
    if (!plan.method.key_feedback) {
        return {};
    }
    const kv_layer & layer = *step.layer;
    const int64_t group = queries.n_head / plan.n_head_kv;
    query_means all(group, plan.head_dim);
    for (int64_t i = 0; i < layer.n_tail; ++i) {
        all.add_packed(layer.tail_queries.data() + static_cast<size_t>(i) * plan.row() + head * plan.head_dim, i);
    }
    for (int64_t i = 0; i < step.n_new; ++i) {
        all.add(queries.q + (i * queries.n_head + head * group) * plan.head_dim);
    }
    return all.means();
}

// One side of a chunk of kvstream.
void seal_stream_side(layer_step & step, const cpu_kernels & kernels, kv_side side) {
    const chunk_plan & plan = *step.plan;
    const bool key = side == kv_side::key;
    const std::vector<kv_chunk> & chunks = step.layer->chunks;
    stream_rows rows{side, key ? step.k_rows : step.v_rows};
    rows.n_tokens = step.closed.n_stored;
    rows.n_head_kv = plan.n_head_kv;
    rows.head_dim = plan.head_dim;
    rows.n_sinks = step.closed.n_sinks;
    rows.index = static_cast<int64_t>(chunks.size());
    const size_t at = key ? 0 : static_cast<size_t>(plan.stream->k.units(plan.head_dim));  // in a head's state
    const page * const before = chunks.empty() ? nullptr : chunks.back().state.get();
    (key ? step.closed.k : step.closed.v) = seal_stream_chunk(
        key ? plan.stream->k : plan.stream->v, kernels, rows, before ? before->as<float>() + at : nullptr,
        step.closed.state->as<float>() + at, plan.state_floats() / static_cast<size_t>(plan.n_head_kv),
        key ? step.sinks.k.data() : step.sinks.v.data(), step.errors_of(side));
}

// One side of a chunk of kvquant.
void seal_kvquant_side(layer_step & step, const cpu_kernels & kernels, kv_side side) {
    const bool key = side == kv_side::key;
    const kv_chunk & c = step.closed;
    const uint16_t * const rows = key ? step.k_rows : step.v_rows;
    raw_rows & sinks = step.sinks;
    std::copy_n(rows, static_cast<size_t>(c.n_sinks) * step.plan->row(), key ? sinks.k.data() : sinks.v.data());
    (key ? step.closed.k : step.closed.v) =
        seal_kvquant_chunk(*step.plan, side, kernels, rows, c.n_stored, c.n_sinks, step.errors_of(side));
}

// Values of a kv head that kivi has kept exact until now.
void seal_late_values(const layer_step & step, const cpu_kernels & kernels, int64_t head, kv_error_sums * error) {
    const chunk_plan & plan = *step.plan;
    for (const layer_step::late_page & l : step.late) {
        const kv_chunk & exact = step.layer->chunks[l.chunk];
        const chunk_rows rows{exact.v.bytes->as<uint16_t>() + head * plan.head_dim, plan.row(), exact.n_stored,
                              plan.head_dim, 0};
        seal_kivi_rows(*l.sealed.header, kernels, rows, block_of(l.sealed, head, plan.n_head_kv), error);
    }
}

}  // namespace

void layer_step::begin(int64_t n, bool closes, bool seal, int64_t prompt, going_on * goes) {
    n_new = n;
    n_prompt = prompt;
    n_question = 0;
    going = goes;
    n_tail_rows = layer->n_tail_rows();
    close = closes;
    closed = {};
    sinks = {};
    late.clear();
    place & where = *layer->where;
    // The device's whole at once: pieces of eight sizes would all be kept for reuse there.
    const auto room_for = [&](int64_t rows) {
        return where.on_device() ? plan->chunk_size : (rows + tail_step - 1) / tail_step * tail_step;
    };
    const int64_t room = room_for(n_open());
    if (!passes_through()) {
        const int64_t n_rows = close ? n_open_rows() : room_for(n_open_rows());
        layer->tail.reserve(static_cast<size_t>(n_rows) * plan->row(), where);
        use_rows(layer->tail.k.data(), layer->tail.v.data());
    }
    if (plan->reads_queries() && !close) {
        layer->tail_queries.reserve(static_cast<size_t>(room) * plan->row(), where);
    }
    if (plan->guided) {
        layer->tail_weights.reserve(static_cast<size_t>(close ? n_open() : room), where);
        const float unknown = going ? tail_weight::absent : 0.0f;  // until they are weighed
        std::fill_n(layer->tail_weights.data() + layer->n_tail, n_new, n_prompt > 0 ? unknown : tail_weight::generated);
    }
    if (!close) {
        return;
    }
    const chunk_closing what = close_chunk(*plan, *layer, n_open(), seal);
    closed.n_stored = closed.n_tokens = static_cast<int32_t>(n_open());
    closed.n_sinks = what.n_sinks;
    if (!plan->sizes_follow_sealing()) {
        closed.k = make_side(*plan, kv_side::key, what.k_sealed, n_open(), where);
        closed.v = make_side(*plan, kv_side::value, what.v_sealed, n_open(), where);
    }
    if (plan->state_floats() > 0) {
        closed.state = std::make_shared<page>(where, plan->state_bytes());
    }
    for (const size_t i : what.late_keys) {
        late.push_back({i, kv_side::key, make_side(*plan, kv_side::key, true, layer->chunks[i].n_stored, where)});
    }
    for (const size_t i : what.late_values) {
        late.push_back({i, kv_side::value, make_side(*plan, kv_side::value, true, layer->chunks[i].n_stored, where)});
    }
    sinks.reserve(static_cast<size_t>(what.n_sinks) * plan->row(), where);
    errors = layer->errors;
    if (layer->chunks.size() == layer->chunks.capacity()) {
        layer->chunks.reserve(2 * layer->chunks.size() + 8);  // so that commit allocates nothing
    }
}

void layer_step::begin_condensing(int64_t n, int64_t of_question, int64_t n_kept) {
    n_new = n;
    n_prompt = 0;
    n_question = of_question;
    going = nullptr;
    n_tail_rows = 0;
    close = true;
    closed = {};
    sinks = {};
    late.clear();
    closed.n_stored = static_cast<int32_t>(n_kept);
    closed.n_tokens = static_cast<int32_t>(layer->n_chunked + n - of_question);
    closed.n_absent = closed.n_tokens - closed.n_stored;
    closed.k = make_side(*plan, kv_side::key, /*sealed=*/false, n_kept, *layer->where);
    closed.v = make_side(*plan, kv_side::value, /*sealed=*/false, n_kept, *layer->where);
    layer->chunks.reserve(8);  // so that commit allocates nothing
}

std::span<kv_error_sums> layer_step::errors_of(kv_side side) {
    const size_t n = errors.empty() ? 0 : static_cast<size_t>(plan->n_head_kv);
    return std::span(errors).subspan(side == kv_side::key ? 0 : n, n);
}

void layer_step::use_rows(uint16_t * k, uint16_t * v) {
    k_rows = k;
    v_rows = v;
}

// Those of tokens that do not stay.
void layer_step::drop_rows() noexcept {
    const size_t row = plan->row();
    size_t to = static_cast<size_t>(n_tail_rows) * row;
    for (int64_t i = 0; i < n_rows(); ++i) {
        if (tail_weight::is_held(layer->tail_weights.data()[layer->n_tail + token_of_row(i)])) {
            const size_t from = static_cast<size_t>(n_tail_rows + i) * row;
            std::copy_n(k_rows + from, row, k_rows + to);
            std::copy_n(v_rows + from, row, v_rows + to);
            to += row;
        }
    }
}

void layer_step::commit() noexcept {
    if (!close) {
        if (going) {
            drop_rows();
        }
        layer->n_tail += n_new;
        return;
    }
    if (condenses()) {
        layer->chunks.clear();
        layer->n_chunked = closed.n_tokens;
        layer->chunks.push_back(std::move(closed));
        ++layer->n_edits;
        return;
    }
    if (closed.n_sinks > 0) {
        layer->sinks = std::move(sinks);
    }
    for (late_page & l : late) {
        kv_chunk & chunk = layer->chunks[l.chunk];
        (l.side == kv_side::key ? chunk.k : chunk.v) = std::move(l.sealed);
        ++layer->n_edits;
    }
    layer->errors = std::move(errors);
    layer->n_chunked += closed.n_tokens;
    layer->chunks.push_back(std::move(closed));
    layer->n_tail = 0;
    layer->release_tail();
    layer->give_back_before(plan->kept_from(layer->n_chunked));
}

std::span<const kv_segment> host_step::segments(const layer_step & step) {
    const kv_layer & layer = *step.layer;
    if (of_ != &layer || n_chunks_ != layer.chunks.size() || n_edits_ != layer.n_edits) {
        segments_.clear();
        layer.append_segments(segments_);
        segments_.emplace_back();
        of_ = &layer;
        n_chunks_ = layer.chunks.size();
        n_edits_ = layer.n_edits;
    }
    kv_segment & open = segments_.back();
    open.first = layer.n_chunked - layer.n_absent();
    open.n_tokens = static_cast<int32_t>(step.n_open_rows());
    open.k_rows = step.k_rows;
    open.v_rows = step.v_rows;
    return segments_;
}

bool host_step::store(const layer_step & step, const cpu_kernels & kernels, int64_t i, const float * k,
                      const float * v) {
    const chunk_plan & plan = *step.plan;
    const size_t at = static_cast<size_t>(step.n_tail_rows + i) * plan.row();
    const int32_t d = static_cast<int32_t>(plan.head_dim);
    const bool k_finite = kernels.store_row(k, step.k_rows + at, plan.row(), d, plan.k_rotation);
    const bool v_finite = kernels.store_row(v, step.v_rows + at, plan.row(), d, plan.v_rotation);
    return k_finite && v_finite;
}

void host_step::keep_queries(const layer_step & step, int64_t i, const query_rows & queries) {
    const chunk_plan & plan = *step.plan;
    const int64_t group = queries.n_head / plan.n_head_kv;
    uint8_t * const rows = step.layer->tail_queries.data() + static_cast<size_t>(step.layer->n_tail + i) * plan.row();
    for (int64_t head = 0; head < plan.n_head_kv; ++head) {
        const float * const q = queries.q + (i * queries.n_head + head * group) * plan.head_dim;
        uint8_t * const row = rows + head * plan.head_dim;
        if (plan.method.key_feedback) {
            query_means::pack(q, step.layer->n_tail + i, group, plan.head_dim, row);
        } else {
            query_squares::pack(q, group, plan.head_dim, row);
        }
    }
}

void host_step::seal(layer_step & step, const cpu_kernels & kernels, int64_t job, const query_rows & queries) {
    const chunk_plan & plan = *step.plan;
    if (plan.sizes_follow_sealing()) {
        const kv_side side = job == 0 ? kv_side::key : kv_side::value;
        return plan.stream    ? seal_stream_side(step, kernels, side)
               : plan.kvquant ? seal_kvquant_side(step, kernels, side)
                              : seal_guided_side(step, kernels, side);
    }
    const int64_t head = job / 2;
    const bool key = job % 2 == 0;
    const kv_chunk & c = step.closed;
    const size_t page_bytes = 2 * static_cast<size_t>(c.n_stored) * plan.row();
    const auto rows_of = [&](const uint16_t * rows, const kv_chunk & chunk) {
        return chunk_rows{rows + head * plan.head_dim, plan.row(), chunk.n_stored, plan.head_dim, chunk.n_sinks};
    };
    const auto error_of = [&](bool keys) {
        return step.errors.empty() ? nullptr : &step.errors[static_cast<size_t>(keys ? head : plan.n_head_kv + head)];
    };
    if (job == 0 && c.n_sinks > 0) {  // now: the rows may be another layer's before the pass ends
        std::copy_n(step.k_rows, step.sinks.k.size(), step.sinks.k.data());
        std::copy_n(step.v_rows, step.sinks.v.size(), step.sinks.v.data());
    }
    const kv_chunk_side & side = key ? c.k : c.v;
    if (!side.sealed() && head == 0) {
        std::memcpy(side.bytes->data(), key ? step.k_rows : step.v_rows, page_bytes);
    }
    if (plan.kivi) {
        return !key ? seal_late_values(step, kernels, head, error_of(false))
                    : seal_kivi_rows(*side.header, kernels, rows_of(step.k_rows, c),
                                     block_of(side, head, plan.n_head_kv), error_of(true));
    }
    if (!key) {
        if (side.sealed()) {
            seal_chunk_values(plan, kernels, rows_of(step.v_rows, c), block_of(side, head, plan.n_head_kv),
                              error_of(false));
        }
        return;
    }
    if (!plan.seals) {
        return;
    }
    const size_t n_state = plan.state_floats() / static_cast<size_t>(plan.n_head_kv);
    const std::vector<kv_chunk> & chunks = step.layer->chunks;
    const page * before = chunks.empty() ? nullptr : chunks.back().state.get();
    const size_t at = static_cast<size_t>(head) * n_state;
    std::vector<late_keys> late;
    for (const layer_step::late_page & l : step.late) {
        const kv_chunk & exact = chunks[l.chunk];
        late.push_back({rows_of(exact.k.bytes->as<uint16_t>(), exact), block_of(l.sealed, head, plan.n_head_kv)});
    }
    const bool is_f16 = state_is_f16(plan.method);
    std::vector<float> old_state(before ? n_state : 0);
    for (size_t i = 0; i < old_state.size(); ++i) {
        old_state[i] = state_number(before->data(), is_f16, at + i);
    }
    std::vector<float> state(c.state ? n_state : 0);
    seal_chunk_keys(plan, kernels, rows_of(step.k_rows, c), old_state, state,
                    squares_of(step, head, old_state, queries), means_of(step, head, queries),
                    side.sealed() ? block_of(side, head, plan.n_head_kv) : nullptr, late, error_of(true));
    for (size_t i = 0; i < state.size(); ++i) {
        put_state_number(c.state->data(), is_f16, at + i, state[i]);
    }
}

}  // namespace livekv
