#include "cache/device_layer.h"

#include <algorithm>

#include "cache/kv_options.h"
#include "error.h"
#include "kv/kv_pack.h"

namespace livekv {

namespace {

constexpr uint32_t none_bad = UINT32_MAX;
constexpr int64_t max_head_dim = 512;

size_t floats(size_t n) {
    return n * sizeof(float);
}

}  // namespace

device_workspace::device_workspace(const livekv_layer_plan & plan, int64_t n_head)
    : attention_(
          floats(device::attention_floats(static_cast<int32_t>(plan.chunk_size), static_cast<int32_t>(n_head),
                                          static_cast<int32_t>(plan.n_head_kv), static_cast<int32_t>(plan.head_dim))),
          true),
      queries_(plan.k_rotation > 1 ? floats(static_cast<size_t>(plan.chunk_size * n_head * plan.head_dim)) : 0, true),
      sealing_(sizeof(uint32_t) *
                   device::seal_words(static_cast<int32_t>(plan.chunk_size), static_cast<int32_t>(plan.n_head_kv),
                                      static_cast<int32_t>(plan.head_dim), plan.method.k_outliers(plan.chunk_size)),
               true) {
    device::clear(sealing_.data(), sealing_.bytes(), nullptr);
    device::wait(nullptr);
}

size_t device_workspace::bytes() const {
    return attention_.bytes() + queries_.bytes() + sealing_.bytes();
}

device_layer::device_layer(livekv_layer & layer, device_workspace & workspace, int64_t n_head)
    : layer_(layer),
      workspace_(workspace),
      n_head_(n_head),
      bad_(static_cast<uint32_t *>(device::allocate_on_host(sizeof(uint32_t)))) {
    *bad_ = none_bad;
}

void device_layer::require_supported(const livekv_layer_plan & plan) {
    if (plan.head_dim > max_head_dim) {
        fail("on the GPU the livekv cache stores heads of up to ", max_head_dim, " values, but head_dim is ",
             plan.head_dim, "; compute on the CPU");
    }
    if (plan.chunk_size > device::longest_chunk()) {
        throw kv_option_error("chunk_size", std::to_string(plan.chunk_size) + " tokens, but this GPU seals chunks of up to " +
                                                std::to_string(device::longest_chunk()) +
                                                "; use a smaller one, or compute on the CPU");
    }
    if (plan.measure_error) {
        throw kv_option_error("measure_error", "the cache's error is measured on the CPU only");
    }
}

void device_layer::store(const float * k, size_t k_stride, const float * v, size_t v_stride, device::stream s) {
    const livekv_layer_plan & plan = layer_.plan_;
    *bad_ = none_bad;
    sealed_ = false;
    const size_t at = static_cast<size_t>(layer_.n_tail_) * plan.row();
    device_store args;
    args.n_tokens = static_cast<int32_t>(layer_.step_.n_new);
    args.n_head_kv = static_cast<int32_t>(plan.n_head_kv);
    args.head_dim = static_cast<int32_t>(plan.head_dim);
    args.bad = bad_.get();
    args.sides[0] = {k, k_stride, layer_.step_.rows->k.data() + at, plan.k_rotation};
    args.sides[1] = {v, v_stride, layer_.step_.rows->v.data() + at, plan.v_rotation};
    device::store_rows(args, s);
}

device_side device_layer::side(const livekv_layer::chunk & c, kv_side which) const {
    const kv_page & page = which == kv_side::key ? *c.k : *c.v;
    if (which == kv_side::key ? c.k_sealed : c.v_sealed) {
        return side_of_blocks(page.data(), block_header(layer_.plan_.method, which, c.n_stored, layer_.plan_.head_dim));
    }
    device_side rows;
    rows.data = page.data();
    rows.n_stored = static_cast<uint16_t>(c.n_stored);
    return rows;
}

device_chunk device_layer::entry(const livekv_layer::chunk & c) const {
    device_chunk e;
    e.k = side(c, kv_side::key);
    e.v = side(c, kv_side::value);
    e.n_tokens = c.n_tokens;
    e.n_skip = c.n_sinks;
    return e;
}

// Chunks that are in the table already are left alone: a chunk is added once in as many tokens.
void device_layer::update_table(device::stream s) {
    const int64_t n = static_cast<int64_t>(layer_.chunks_.size());
    const size_t needed = static_cast<size_t>(n) * sizeof(device_chunk);
    if (n > 0 && (!table_ || table_->bytes() < needed)) {
        table_ = std::make_unique<kv_page>(2 * needed + 8 * sizeof(device_chunk), true);
        layer_.n_unchanged_ = 0;
    }
    if (layer_.n_unchanged_ == 0) {
        n_chunk_tiles_ = 0;
    }
    std::vector<device_chunk> added;
    for (int64_t i = layer_.n_unchanged_; i < n; ++i) {
        device_chunk e = entry(layer_.chunks_[static_cast<size_t>(i)]);
        e.first_tile = n_chunk_tiles_;
        n_chunk_tiles_ += kv_ceil_div(e.n_tokens, kv_tile_tokens);
        added.push_back(e);
    }
    auto * const to = reinterpret_cast<device_chunk *>(table_ ? table_->data() : nullptr) + layer_.n_unchanged_;
    if (added.size() == 1) {
        device::put_chunk(added.front(), to, s);
    } else if (!added.empty()) {
        device::copy_to_device(to, added.data(), added.size() * sizeof(device_chunk), s);
    }
    layer_.n_unchanged_ = n;
}

void device_layer::attend(const float * q, float * out, float scale, device::stream s) {
    update_table(s);
    const livekv_layer_plan & plan = layer_.plan_;
    const auto rows = [](const raw_rows & from, int64_t n) {
        device_chunk c;
        c.k.data = reinterpret_cast<const uint8_t *>(from.k.data());
        c.v.data = reinterpret_cast<const uint8_t *>(from.v.data());
        c.k.n_stored = c.v.n_stored = static_cast<uint16_t>(n);
        c.n_tokens = static_cast<int32_t>(n);
        return c;
    };
    device_attention a;
    a.q = q;
    a.out = out;
    a.n_tokens = static_cast<int32_t>(layer_.step_.n_new);
    a.n_head = static_cast<int32_t>(n_head_);
    a.n_head_kv = static_cast<int32_t>(plan.n_head_kv);
    a.head_dim = static_cast<int32_t>(plan.head_dim);
    a.k_rotation = plan.k_rotation;
    a.v_rotation = plan.v_rotation;
    a.scale = scale;
    a.n_chunks = static_cast<int32_t>(layer_.chunks_.size());
    a.chunks = a.n_chunks > 0 ? reinterpret_cast<const device_chunk *>(table_->data()) : nullptr;
    a.tiles_per_chunk = kv_ceil_div(static_cast<int32_t>(plan.chunk_size), kv_tile_tokens);
    a.n_chunk_tiles = n_chunk_tiles_;
    a.v_outliers = plan.method.v_outliers(plan.head_dim);
    if (a.n_chunks > 0 && !layer_.sinks_.k.empty()) {
        const livekv_layer::chunk & first = layer_.chunks_.front();
        a.sinks = rows(layer_.sinks_, std::min(first.n_sinks, first.n_tokens));
    }
    a.open = rows(*layer_.step_.rows, layer_.n_tail_ + layer_.step_.n_new);
    a.sinks.first_tile = a.sinks_tile();
    a.open.first_tile = a.open_tile();
    const bool sealed = plan.seals && a.n_chunks > 0;
    device::attend(a, sealed ? plan.method.k_bits : 0, sealed ? plan.method.v_bits : 0,
                   reinterpret_cast<float *>(workspace_.attention_.data()),
                   reinterpret_cast<float *>(workspace_.queries_.data()), s);
}

device_seal device_layer::seal_of(const livekv_layer::chunk & c, const uint16_t * k, const uint16_t * v) const {
    device_seal d;
    d.k = k;
    d.v = v;
    d.n_tokens = c.n_stored;
    d.n_head_kv = static_cast<int32_t>(layer_.plan_.n_head_kv);
    d.head_dim = static_cast<int32_t>(layer_.plan_.head_dim);
    d.n_sinks = c.n_sinks;
    d.method = layer_.plan_.method;
    return d;
}

void device_layer::seal(device::stream s) {
    if (!layer_.step_.close) {
        return;
    }
    livekv_layer::step & step = layer_.step_;
    const livekv_layer::chunk & c = step.closed;
    sealing_.start(s);
    const auto copy = [&](void * to, const uint16_t * from, size_t n_values) {
        if (n_values > 0) {
            device::copy_on_device(to, from, 2 * n_values, s);
        }
    };
    copy(step.sinks.k.data(), step.rows->k.data(), step.sinks.k.size());
    copy(step.sinks.v.data(), step.rows->v.data(), step.sinks.v.size());
    const size_t n_values = static_cast<size_t>(c.n_stored) * layer_.plan_.row();
    if (!c.k_sealed) {
        copy(c.k->data(), step.rows->k.data(), n_values);
    }
    if (!c.v_sealed) {
        copy(c.v->data(), step.rows->v.data(), n_values);
    }
    auto * const workspace = reinterpret_cast<uint32_t *>(workspace_.sealing_.data());
    auto * const new_state = reinterpret_cast<float *>(step.state->data());
    if (layer_.plan_.seals) {
        device_seal d = seal_of(c, step.rows->k.data(), step.rows->v.data());
        d.k_blocks = c.k_sealed ? c.k->data() : nullptr;
        d.v_blocks = c.v_sealed ? c.v->data() : nullptr;
        d.old_state = reinterpret_cast<const float *>(layer_.state_->data());
        d.new_state = new_state;
        device::seal(d, workspace, s);
    } else {
        device::copy_on_device(new_state, layer_.state_->data(), layer_.state_->bytes(), s);
    }
    for (key_statistics & statistics : step.statistics) {  // how many chunks they have seen
        const std::vector<float> state = statistics.state();
        statistics.set_state(statistics.n_chunks() + (layer_.plan_.seals ? 1 : 0), state);
    }
    for (size_t i = 0; i < step.late_keys.size(); ++i) {
        if (step.late_keys[i]) {
            const livekv_layer::chunk & exact = layer_.chunks_[i];
            device_seal d = seal_of(exact, reinterpret_cast<const uint16_t *>(exact.k->data()), nullptr);
            d.k_blocks = step.late_keys[i]->data();
            d.old_state = new_state;
            device::seal(d, workspace, s);
        }
    }
    sealing_.stop(s);
    sealed_ = true;
}

int64_t device_layer::first_bad() const {
    return *bad_ == none_bad ? -1 : static_cast<int64_t>(*bad_);
}

double device_layer::seal_seconds() const {
    return sealed_ ? sealing_.seconds() : 0.0;
}

}  // namespace livekv
