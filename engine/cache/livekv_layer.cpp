#include "cache/livekv_layer.h"

#include <algorithm>
#include <cstring>

#include "error.h"
#include "kernels/seal.h"
#include "kv/f16.h"
#include "kv/kv_pack.h"

namespace livekv {

namespace {

constexpr int64_t tail_step = 64;  // a tail grows by this many tokens

const uint16_t * rows_in(const kv_page & page) {
    return reinterpret_cast<const uint16_t *>(page.data());
}

}  // namespace

void raw_rows::reserve(size_t n_values, bool on_device) {
    k.reserve(n_values, on_device);
    v.reserve(n_values, on_device);
}

void raw_rows::release() {
    k.release();
    v.release();
}

livekv_layer::livekv_layer(const livekv_layer_plan & plan, const cpu_kernels & kernels)
    : plan_(plan),
      kernels_(&kernels),
      statistics_(static_cast<size_t>(plan.n_head_kv), key_statistics(plan.method, plan.head_dim)),
      errors_(static_cast<size_t>(2 * plan.n_head_kv)) {
    reset();
}

std::shared_ptr<kv_page> livekv_layer::make_page(kv_side side, bool sealed, int64_t n) const {
    const size_t bytes = sealed ? kv_map(block_header(plan_.method, side, n, plan_.head_dim)).bytes *
                                      static_cast<size_t>(plan_.n_head_kv)
                                : 2 * static_cast<size_t>(n) * plan_.row();
    return std::make_shared<kv_page>(bytes, plan_.on_device);
}

void livekv_layer::begin(int64_t n_new, bool close, bool seal, raw_rows & passing) {
    step_ = {};
    step_.n_new = n_new;
    step_.close = close;
    const int64_t n = n_tail_ + n_new;
    step_.rows = close && n_tail_ == 0 ? &passing : &tail_;
    step_.rows->reserve(static_cast<size_t>(close ? n : (n + tail_step - 1) / tail_step * tail_step) * plan_.row(),
                        plan_.on_device);
    if (close) {
        const int64_t newest = static_cast<int64_t>(chunks_.size());
        const bool settled = !plan_.warmup_keep && newest + 1 >= plan_.warmup_chunks;
        const bool seals = plan_.seals && seal;
        const auto seals_keys = [&](int64_t i) { return seals && (i >= plan_.warmup_chunks || settled); };
        chunk & c = step_.closed;
        c.k_sealed = seals_keys(newest);
        c.v_sealed = seals;
        c.n_stored = c.n_tokens = static_cast<int32_t>(n);
        c.n_sinks =
            plan_.seals && n_chunked_ == 0 ? static_cast<int32_t>(std::min<int64_t>(plan_.method.sink_tokens, n)) : 0;
        c.k = make_page(kv_side::key, c.k_sealed, n);
        c.v = make_page(kv_side::value, c.v_sealed, n);
        if (chunks_.size() == chunks_.capacity()) {
            chunks_.reserve(2 * chunks_.size() + 8);  // so that commit allocates nothing
        }
        step_.late_keys.resize(chunks_.size());
        for (size_t i = 0; i < chunks_.size(); ++i) {
            const chunk & old = chunks_[i];  // one with exact values is generated text that is to stay as it is
            if (old.v_sealed && !old.k_sealed && seals_keys(static_cast<int64_t>(i))) {
                step_.late_keys[i] = make_page(kv_side::key, true, old.n_stored);
            }
        }
        step_.statistics = statistics_;
        step_.errors = errors_;
        step_.sinks.reserve(static_cast<size_t>(c.n_sinks) * plan_.row(), plan_.on_device);
        if (plan_.on_device) {
            step_.state = std::make_shared<kv_page>(state_->bytes(), true);
        }
    }
    rebuild_segments(n, *step_.rows);
}

bool livekv_layer::store(int64_t i, const float * k, const float * v) {
    const size_t at = static_cast<size_t>(n_tail_ + i) * plan_.row();
    const bool k_finite = kernels_->store_row(k, step_.rows->k.data() + at, plan_.row(),
                                              static_cast<int32_t>(plan_.head_dim), plan_.k_rotation);
    const bool v_finite = kernels_->store_row(v, step_.rows->v.data() + at, plan_.row(),
                                              static_cast<int32_t>(plan_.head_dim), plan_.v_rotation);
    return k_finite && v_finite;
}

void livekv_layer::rebuild_segments(int64_t n_open, const raw_rows & rows) {
    segments_.clear();
    if (!sinks_.k.empty() && !chunks_.empty()) {
        kv_segment s;
        s.n_tokens = std::min(chunks_.front().n_sinks, chunks_.front().n_tokens);
        s.k_rows = sinks_.k.data();
        s.v_rows = sinks_.v.data();
        segments_.push_back(s);
    }
    for (const chunk & c : chunks_) {
        kv_segment s;
        s.n_tokens = c.n_tokens;
        s.n_skip = c.n_sinks;
        s.k_block_bytes = c.k->bytes() / static_cast<size_t>(plan_.n_head_kv);
        s.v_block_bytes = c.v->bytes() / static_cast<size_t>(plan_.n_head_kv);
        s.k_blocks = c.k_sealed ? c.k->data() : nullptr;
        s.v_blocks = c.v_sealed ? c.v->data() : nullptr;
        s.k_rows = c.k_sealed ? nullptr : rows_in(*c.k);
        s.v_rows = c.v_sealed ? nullptr : rows_in(*c.v);
        segments_.push_back(s);
    }
    kv_segment open;
    open.n_tokens = static_cast<int32_t>(n_open);
    open.k_rows = rows.k.data();
    open.v_rows = rows.v.data();
    segments_.push_back(open);
}

void livekv_layer::seal(int64_t job) {
    const int64_t head = job / 2;
    const chunk & c = step_.closed;
    const size_t page_bytes = 2 * static_cast<size_t>(c.n_stored) * plan_.row();
    if (job == 0) {  // now: the rows may be another layer's before the pass ends
        std::copy_n(step_.rows->k.data(), step_.sinks.k.size(), step_.sinks.k.data());
        std::copy_n(step_.rows->v.data(), step_.sinks.v.size(), step_.sinks.v.data());
    }
    chunk_sealer sealer(plan_.method, *kernels_);
    if (job % 2 == 1) {
        if (c.v_sealed) {
            const chunk_rows rows = head_rows(step_.rows->v.data(), c, head);
            uint8_t * const block = block_of(*c.v, head);
            sealer.seal_values(rows, block);
            note_error(rows, block, sealer.n_saturated(), plan_.n_head_kv + head);
        } else if (head == 0) {
            std::memcpy(c.v->data(), step_.rows->v.data(), page_bytes);
        }
        return;
    }
    key_statistics & statistics = step_.statistics[static_cast<size_t>(head)];
    const chunk_rows rows = head_rows(step_.rows->k.data(), c, head);
    if (plan_.seals) {
        sealer.split_keys(rows);
        statistics.update(sealer.high(), sealer.low());
    }
    if (c.k_sealed) {
        uint8_t * const block = block_of(*c.k, head);
        sealer.seal_keys(statistics, block);
        note_error(rows, block, sealer.n_saturated(), head);
    } else if (head == 0) {
        std::memcpy(c.k->data(), step_.rows->k.data(), page_bytes);
    }
    for (size_t i = 0; i < step_.late_keys.size(); ++i) {
        if (step_.late_keys[i]) {
            const chunk_rows exact = head_rows(rows_in(*chunks_[i].k), chunks_[i], head);
            uint8_t * const block = block_of(*step_.late_keys[i], head);
            sealer.split_keys(exact);
            sealer.seal_keys(statistics, block);
            note_error(exact, block, sealer.n_saturated(), head);
        }
    }
}

chunk_rows livekv_layer::head_rows(const uint16_t * rows, const chunk & c, int64_t head) const {
    return {rows + head * plan_.head_dim, plan_.row(), c.n_stored, plan_.head_dim, c.n_sinks};
}

uint8_t * livekv_layer::block_of(kv_page & page, int64_t head) const {
    return page.data() + page.bytes() / static_cast<size_t>(plan_.n_head_kv) * static_cast<size_t>(head);
}

// Sinks are not in the block; the rest is compared with what it stands for now.
void livekv_layer::note_error(const chunk_rows & rows, const uint8_t * block, int64_t n_saturated, int64_t slot) {
    if (!plan_.measure_error) {
        return;
    }
    const std::vector<float> exact = rows.to_f32(*kernels_);
    const std::vector<float> stored = unpack_block(block);
    error_sums & e = step_.errors[static_cast<size_t>(slot)];
    for (size_t i = static_cast<size_t>(rows.n_sinks * rows.head_dim); i < exact.size(); ++i) {
        const double x = exact[i];
        e.signal += x * x;
        e.noise += (x - stored[i]) * (x - stored[i]);
    }
    e.n_saturated += n_saturated;
}

void livekv_layer::commit() {
    if (!step_.close) {
        n_tail_ += step_.n_new;
        return;
    }
    const chunk & c = step_.closed;
    if (c.n_sinks > 0) {
        sinks_ = std::move(step_.sinks);
    }
    for (size_t i = 0; i < step_.late_keys.size(); ++i) {
        if (step_.late_keys[i]) {
            chunks_[i].k = step_.late_keys[i];
            chunks_[i].k_sealed = true;
            n_unchanged_ = 0;
        }
    }
    statistics_ = std::move(step_.statistics);
    errors_ = std::move(step_.errors);
    if (plan_.on_device) {
        state_ = step_.state;
    }
    chunks_.push_back(c);
    n_chunked_ += c.n_tokens;
    n_tail_ = 0;
    tail_.release();
    step_ = {};
}

void livekv_layer::trim(int64_t n) noexcept {
    LIVEKV_ASSERT(n >= 0 && n <= n_tokens());
    if (n == 0) {
        reset();
        return;
    }
    if (n >= n_chunked_) {
        n_tail_ = n - n_chunked_;
        return;
    }
    n_tail_ = 0;
    tail_.release();
    n_unchanged_ = 0;
    while (n_chunked_ - chunks_.back().n_tokens >= n) {
        n_chunked_ -= chunks_.back().n_tokens;
        chunks_.pop_back();
    }
    chunks_.back().n_tokens -= static_cast<int32_t>(n_chunked_ - n);
    n_chunked_ = n;
}

void livekv_layer::repeat(int64_t n) {
    if (chunks_.empty() || n_tail_ > 0) {
        fail("only whole chunks can be repeated; the sequence has ", n_tokens(), " tokens");
    }
    std::vector<chunk> sources;
    for (const chunk & c : chunks_) {
        if (!plan_.seals || (c.k_sealed && c.v_sealed)) {
            sources.push_back(c);
        }
    }
    if (sources.empty()) {  // copies of raw chunks would be a longer warm-up than any context has
        fail("none of the ", n_tokens(), " tokens to be repeated is sealed yet; more are needed");
    }
    if (sources.size() > 1 && sources.front().n_sinks > 0) {
        sources.erase(sources.begin());  // the sequence's own first chunk lacks its sinks
    }
    for (size_t from = 0; n_chunked_ < n; from = (from + 1) % sources.size()) {
        chunk c = sources[from];
        c.k = c.k->copy(plan_.on_device);
        c.v = c.v->copy(plan_.on_device);
        c.n_sinks = 0;
        n_chunked_ += c.n_tokens;
        chunks_.push_back(std::move(c));
    }
}

void livekv_layer::reset() noexcept {
    chunks_.clear();
    n_chunked_ = 0;
    sinks_.release();
    tail_.release();
    n_tail_ = 0;
    statistics_.assign(statistics_.size(), key_statistics(plan_.method, plan_.head_dim));
    errors_.assign(errors_.size(), {});
    n_unchanged_ = 0;
    if (plan_.on_device) {
        const std::vector<float> state = statistics_state();
        state_ = std::make_shared<kv_page>(state.size() * sizeof(float), true);
        device::copy_between(state_->data(), true, state.data(), false, state_->bytes());
    }
}

std::vector<float> livekv_layer::statistics_state() const {
    std::vector<float> all;
    for (const key_statistics & statistics : statistics_) {
        const std::vector<float> state = statistics.state();
        all.insert(all.end(), state.begin(), state.end());
    }
    return all;
}

livekv_layer livekv_layer::fork() const {
    livekv_layer copy = *this;
    copy.step_ = {};
    copy.segments_.clear();
    copy.n_unchanged_ = 0;
    return copy;
}

livekv_layer livekv_layer::copy(bool to_device) const {
    livekv_layer other = fork();
    other.plan_.on_device = to_device;
    for (chunk & c : other.chunks_) {
        c.k = c.k->copy(to_device);
        c.v = c.v->copy(to_device);
    }
    other.sinks_ = {sinks_.k.copy(to_device), sinks_.v.copy(to_device)};
    other.tail_ = {tail_.k.copy(to_device), tail_.v.copy(to_device)};
    std::vector<float> state = statistics_state();
    const size_t bytes = state.size() * sizeof(float);
    if (plan_.on_device) {
        device::copy_between(state.data(), false, state_->data(), true, bytes);
    }
    if (to_device) {
        other.state_ = std::make_shared<kv_page>(bytes, true);
        device::copy_between(other.state_->data(), true, state.data(), false, bytes);
    } else {
        other.state_.reset();
        const size_t each = static_cast<size_t>(3 * plan_.head_dim);
        for (size_t head = 0; head < statistics_.size(); ++head) {
            other.statistics_[head].set_state(statistics_[head].n_chunks(),
                                              std::span<const float>(state).subspan(head * each, each));
        }
    }
    return other;
}

}  // namespace livekv
