#include "run/device_step.h"

#include <algorithm>
#include <limits>

#include "error.h"

namespace livekv {

namespace {

constexpr uint32_t none_bad = UINT32_MAX;
constexpr int64_t max_head_dim = 512;

// Makes buffer at least so large; what was in it is gone.
bool grow(std::unique_ptr<page> & buffer, size_t bytes) {
    if (bytes == 0 || (buffer && buffer->bytes() >= bytes)) {
        return false;
    }
    buffer.reset();
    buffer = std::make_unique<page>(device_memory(), bytes);
    return true;
}

device_side side_of(const kv_chunk_side & side, int32_t n_stored) {
    if (side.sealed()) {
        return side_of_blocks(side.bytes->data(), *side.header);
    }
    device_side rows;
    rows.data = side.bytes->data();
    rows.n_stored = static_cast<uint16_t>(n_stored);
    return rows;
}

device_chunk entry_of(const kv_chunk & c) {
    device_chunk e;
    e.k = side_of(c.k, c.n_stored);
    e.v = side_of(c.v, c.n_stored);
    e.n_tokens = c.n_tokens;
    e.n_skip = c.n_sinks;
    return e;
}

device_chunk rows_of(const uint16_t * k, const uint16_t * v, int64_t n) {
    device_chunk c;
    c.k.data = reinterpret_cast<const uint8_t *>(k);
    c.v.data = reinterpret_cast<const uint8_t *>(v);
    c.k.n_stored = c.v.n_stored = static_cast<uint16_t>(n);
    c.n_tokens = static_cast<int32_t>(n);
    return c;
}

device_seal seal_of(const chunk_plan & plan, int64_t n_head, const kv_chunk & c, const uint16_t * k,
                    const uint16_t * v) {
    device_seal d;
    d.n_head = static_cast<int32_t>(n_head);
    d.k = k;
    d.v = v;
    d.n_tokens = c.n_stored;
    d.n_head_kv = static_cast<int32_t>(plan.n_head_kv);
    d.head_dim = static_cast<int32_t>(plan.head_dim);
    d.n_sinks = c.n_sinks;
    d.state_floats = static_cast<int32_t>(plan.state_floats() / static_cast<size_t>(plan.n_head_kv));
    d.method = plan.method;
    return d;
}

}  // namespace

void device_workspace::reserve(const chunk_plan & plan, int64_t n_head) {
    const auto n_tokens = static_cast<int32_t>(plan.chunk_size);
    const auto n_head_kv = static_cast<int32_t>(plan.n_head_kv);
    const auto head_dim = static_cast<int32_t>(plan.head_dim);
    grow(attention_,
         sizeof(float) * device::attention_floats(n_tokens, static_cast<int32_t>(n_head), n_head_kv, head_dim));
    if (plan.k_rotation > 1) {
        grow(queries_, sizeof(float) * static_cast<size_t>(plan.chunk_size * n_head * plan.head_dim));
    }
    if (grow(sealing_, sizeof(uint32_t) * device::seal_words(plan.method, n_tokens, static_cast<int32_t>(n_head),
                                                             n_head_kv, head_dim))) {
        device::clear(sealing_->data(), sealing_->bytes(), nullptr);
        device::wait(nullptr);
    }
}

size_t device_workspace::bytes() const {
    const auto of = [](const std::unique_ptr<page> & p) { return p ? p->bytes() : 0; };
    return of(attention_) + of(queries_) + of(sealing_);
}

device_step::device_step(int64_t n_head)
    : n_head_(n_head), bad_(static_cast<uint32_t *>(device::allocate_on_host(sizeof(uint32_t)))) {
    *bad_ = none_bad;
}

void device_step::require_supported(const chunk_plan & plan) {
    if (plan.head_dim > max_head_dim) {
        fail("on the GPU the livekv cache stores heads of up to ", max_head_dim, " values, but head_dim is ",
             plan.head_dim, "; compute on the CPU");
    }
    if (plan.window > 0) {
        fail("attention over a window of ", plan.window, " tokens is computed on the CPU only; use -ngl 0");
    }
    if (plan.chunk_size > device::longest_chunk()) {
        throw kv_option_error(
            "chunk_size", std::to_string(plan.chunk_size) + " tokens, but this GPU seals chunks of up to " +
                              std::to_string(device::longest_chunk()) + "; use a smaller one, or compute on the CPU");
    }
    if (plan.stream || plan.guided || plan.kivi || plan.fastkv || plan.finch || plan.kvquant) {
        throw kv_option_error("policy", std::string("the cache ") +
                                            (plan.stream   ? "kvstream"
                                             : plan.guided ? "guided"
                                             : plan.kivi   ? "kivi"
                                             : plan.fastkv ? "fastkv"
                                             : plan.finch  ? "finch"
                                                           : "kvquant") +
                                            " is computed on the CPU only; use -ngl 0");
    }
    if (plan.measure_error) {
        throw kv_option_error("measure_error", "the cache's error is measured on the CPU only");
    }
}

void device_step::store(const layer_step & step, const float * k, size_t k_stride, const float * v, size_t v_stride,
                        const float * q, device::stream s) {
    const chunk_plan & plan = *step.plan;
    *bad_ = none_bad;
    sealed_ = false;
    const size_t at = static_cast<size_t>(step.layer->n_tail) * plan.row();
    device_store args;
    args.n_tokens = static_cast<int32_t>(step.n_new);
    args.n_head_kv = static_cast<int32_t>(plan.n_head_kv);
    args.head_dim = static_cast<int32_t>(plan.head_dim);
    args.bad = bad_.get();
    args.sides[0] = {k, k_stride, step.k_rows + at, plan.k_rotation};
    args.sides[1] = {v, v_stride, step.v_rows + at, plan.v_rotation};
    device::store_rows(args, s);
    if (q) {
        device_rows rows;
        rows.from = q;
        rows.n_rows = args.n_tokens;
        rows.n_values = static_cast<int32_t>(n_head_ * plan.head_dim);
        rows.stride = static_cast<size_t>(rows.n_values);
        rows.largest = std::numeric_limits<float>::max();
        rows.bad = bad_.get();
        device::check_rows(rows, s);
    }
}

// Chunks that are in the table already are left alone: a chunk is added once in as many tokens.
void device_step::update_table(const kv_layer & layer, device::stream s) {
    const size_t n = layer.chunks.size();
    const size_t needed = n * sizeof(device_chunk);
    if (n > 0 && (!table_ || table_->bytes() < needed)) {
        table_ = std::make_unique<page>(device_memory(), 2 * needed + 8 * sizeof(device_chunk));
        n_listed_ = 0;
    }
    if (n_edits_ != layer.n_edits || n_listed_ > n) {
        n_listed_ = 0;
        n_edits_ = layer.n_edits;
    }
    if (n_listed_ == 0) {
        n_chunk_tiles_ = 0;
    }
    std::vector<device_chunk> added;
    for (size_t i = n_listed_; i < n; ++i) {
        device_chunk e = entry_of(layer.chunks[i]);
        e.first_tile = n_chunk_tiles_;
        n_chunk_tiles_ += kv_ceil_div(e.n_tokens, kv_tile_tokens);
        added.push_back(e);
    }
    if (added.empty()) {
        return;
    }
    device_chunk * const to = table_->as<device_chunk>() + n_listed_;
    if (added.size() == 1) {
        device::put_chunk(added.front(), to, s);
    } else {
        device::copy_to_device(to, added.data(), added.size() * sizeof(device_chunk), s);
    }
    n_listed_ = n;
}

void device_step::attend(const layer_step & step, const float * q, float * out, float scale,
                         device_workspace & workspace, device::stream s) {
    const kv_layer & layer = *step.layer;
    const chunk_plan & plan = *step.plan;
    update_table(layer, s);
    device_attention a;
    a.q = q;
    a.out = out;
    a.n_tokens = static_cast<int32_t>(step.n_new);
    a.n_head = static_cast<int32_t>(n_head_);
    a.n_head_kv = static_cast<int32_t>(plan.n_head_kv);
    a.head_dim = static_cast<int32_t>(plan.head_dim);
    a.k_rotation = plan.k_rotation;
    a.v_rotation = plan.v_rotation;
    a.scale = scale;
    a.n_chunks = static_cast<int32_t>(layer.chunks.size());
    a.chunks = a.n_chunks > 0 ? table_->as<device_chunk>() : nullptr;
    a.tiles_per_chunk = kv_ceil_div(static_cast<int32_t>(plan.chunk_size), kv_tile_tokens);
    a.n_chunk_tiles = n_chunk_tiles_;
    a.v_outliers = plan.method.v_outliers(plan.head_dim);
    if (a.n_chunks > 0 && layer.chunks.front().n_sinks > 0) {
        const kv_chunk & first = layer.chunks.front();
        a.sinks = rows_of(layer.sinks.k.data(), layer.sinks.v.data(), std::min(first.n_sinks, first.n_tokens));
    }
    a.open = rows_of(step.k_rows, step.v_rows, step.n_open());
    a.sinks.first_tile = a.sinks_tile();
    a.open.first_tile = a.open_tile();
    const bool sealed = plan.seals && a.n_chunks > 0;
    device::attend(a, sealed ? key_width(plan.method) : 0, sealed ? plan.method.v_bits : 0, workspace.attention(),
                   workspace.queries(), s);
}

void device_step::seal(layer_step & step, const float * q, device_workspace & workspace, device::stream s) {
    const chunk_plan & plan = *step.plan;
    kv_layer & layer = *step.layer;
    if (!step.close) {
        if (plan.reads_queries()) {
            device::pack_queries(plan.method, q, static_cast<int32_t>(layer.n_tail), static_cast<int32_t>(step.n_new),
                                 static_cast<int32_t>(n_head_), static_cast<int32_t>(plan.n_head_kv),
                                 static_cast<int32_t>(plan.head_dim),
                                 layer.tail_queries.data() + static_cast<size_t>(layer.n_tail) * plan.row(), s);
        }
        return;
    }
    const kv_chunk & c = step.closed;
    sealing_.start(s);
    const auto copy = [&](void * to, const uint16_t * from, size_t n_values) {
        if (n_values > 0) {
            device::copy_on_device(to, from, 2 * n_values, s);
        }
    };
    const size_t n_sinks = static_cast<size_t>(c.n_sinks) * plan.row();
    copy(step.sinks.k.data(), step.k_rows, n_sinks);
    copy(step.sinks.v.data(), step.v_rows, n_sinks);
    const size_t n_values = static_cast<size_t>(c.n_stored) * plan.row();
    if (!c.k.sealed()) {
        copy(c.k.bytes->data(), step.k_rows, n_values);
    }
    if (!c.v.sealed()) {
        copy(c.v.bytes->data(), step.v_rows, n_values);
    }
    if (plan.seals) {
        const std::vector<kv_chunk> & chunks = layer.chunks;
        device_seal d = seal_of(plan, n_head_, c, step.k_rows, step.v_rows);
        d.k_blocks = c.k.sealed() ? c.k.bytes->data() : nullptr;
        d.v_blocks = c.v.sealed() ? c.v.bytes->data() : nullptr;
        d.old_state = chunks.empty() || !chunks.back().state ? nullptr : chunks.back().state->data();
        d.new_state = c.state ? c.state->data() : nullptr;
        d.q = q;
        d.tail_queries = layer.tail_queries.data();
        d.n_new = static_cast<int32_t>(step.n_new);
        d.n_before = layer.n_chunked;
        device::seal(d, workspace.sealing(), s);
    }
    for (const layer_step::late_page & l : step.late) {
        const kv_chunk & exact = layer.chunks[l.chunk];
        device_seal d = seal_of(plan, n_head_, exact, exact.k.bytes->as<uint16_t>(), nullptr);
        d.k_blocks = l.sealed.bytes->data();
        d.old_state = c.state ? c.state->data() : nullptr;
        device::seal(d, workspace.sealing(), s);
    }
    sealing_.stop(s);
    sealed_ = true;
}

int64_t device_step::first_bad() const {
    return *bad_ == none_bad ? -1 : static_cast<int64_t>(*bad_);
}

double device_step::seal_seconds() const {
    return sealed_ ? sealing_.seconds() : 0.0;
}

}  // namespace livekv
