#include "kernels/attention_job.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <new>

#include "error.h"
#include "kv/kv_block.h"

namespace livekv {

namespace {

constexpr size_t cache_line = 64;
// A call has at least this many items where its context allows, so that a handful of threads find work; a span is long
// enough for what it costs to join it. Neither may depend on the number of threads: results would.
constexpr int64_t wanted_items = 16;
constexpr int64_t min_span_tiles = 32;

}  // namespace

void attention_job::free_aligned::operator()(void * p) const {
    std::free(p);
}

attention_job::memory attention_job::allocate(size_t bytes) {
    memory m(std::aligned_alloc(cache_line, kv_align(bytes, cache_line)));
    if (!m) {
        throw std::bad_alloc();
    }
    return m;
}

attention_job::attention_job(const cpu_kernels & kernels, int32_t n_threads, int32_t head_dim)
    : kernels_(kernels),
      head_dim_(head_dim),
      scratch_bytes_(kv_align(kernels.scratch_bytes(head_dim), cache_line)),
      state_floats_(kv_align(softmax_state::n_floats(kernels.row_tile, head_dim), cache_line / sizeof(float))),
      shares_(static_cast<size_t>(n_threads)) {
    for (int32_t i = 0; i < n_threads; ++i) {
        scratch_.push_back(allocate(scratch_bytes_ + state_floats_ * sizeof(float)));
    }
}

void attention_job::prepare(const attention_args & args) {
    LIVEKV_ASSERT(args.head_dim == head_dim_ && args.n_segments > 0);
    args_ = args;
    items_.clear();
    int64_t n_tiles = 0;
    for (int64_t i = 0; i < args.n_segments; ++i) {
        n_tiles += kv_ceil_div(args.segments[i].n_tokens, kv_tile_tokens);
    }
    const int64_t row_tiles = (args.n_rows() + kernels_.row_tile - 1) / kernels_.row_tile;
    const int64_t base_items = row_tiles * args.n_head_kv;
    n_spans_ = std::clamp<int64_t>(n_tiles / min_span_tiles, 1, (wanted_items + base_items - 1) / base_items);
    for (int32_t head = 0; head < args.n_head_kv; ++head) {
        for (int64_t r = 0; r < row_tiles; ++r) {
            attention_item item;
            item.head = head;
            item.first_row = r * kernels_.row_tile;
            item.n_rows = static_cast<int32_t>(std::min<int64_t>(kernels_.row_tile, args.n_rows() - item.first_row));
            int64_t done = 0;
            for (int64_t span = 0; span < n_spans_; ++span) {
                item.n_tiles = n_tiles * (span + 1) / n_spans_ - done;
                items_.push_back(item);
                done += item.n_tiles;
                for (int64_t left = item.n_tiles; left > 0;) {  // where the next span starts
                    const int32_t here =
                        kv_ceil_div(args.segments[item.first_segment].n_tokens, kv_tile_tokens) - item.first_tile;
                    const int64_t step = std::min<int64_t>(left, here);
                    item.first_tile += static_cast<int32_t>(step);
                    left -= step;
                    if (step == here) {
                        ++item.first_segment;
                        item.first_tile = 0;
                    }
                }
            }
        }
    }
    const auto n_items = static_cast<int64_t>(items_.size());
    const auto n_threads = static_cast<int64_t>(shares_.size());
    for (int64_t i = 0; i < n_threads; ++i) {
        shares_[static_cast<size_t>(i)].next = n_items * i / n_threads;
        shares_[static_cast<size_t>(i)].end = n_items * (i + 1) / n_threads;
    }
    if (n_spans_ > 1) {
        if (span_capacity_ < items_.size()) {
            span_states_ = allocate(items_.size() * state_floats_ * sizeof(float));
            span_capacity_ = items_.size();
        }
        spans_left_ = std::vector<std::atomic<int64_t>>(static_cast<size_t>(base_items));
        for (std::atomic<int64_t> & left : spans_left_) {
            left = n_spans_;
        }
    }
}

void attention_job::run(int32_t thread, const float * q, float * out) {
    attention_args args = args_;
    args.q = q;
    args.out = out;
    uint8_t * const scratch = static_cast<uint8_t *>(scratch_[static_cast<size_t>(thread)].get());
    for (size_t k = 0; k < shares_.size(); ++k) {
        share & from = shares_[(static_cast<size_t>(thread) + k) % shares_.size()];
        for (int64_t i = from.next++; i < from.end; i = from.next++) {
            work(i, args, scratch);
        }
    }
}

void attention_job::work(int64_t i, const attention_args & args, uint8_t * scratch) {
    const attention_item & item = items_[static_cast<size_t>(i)];
    float * const floats = n_spans_ == 1
                               ? reinterpret_cast<float *>(scratch + scratch_bytes_)
                               : static_cast<float *>(span_states_.get()) + static_cast<size_t>(i) * state_floats_;
    const softmax_state state = softmax_state::at(floats, kernels_.row_tile);
    kernels_.attend(args, item, scratch, state);
    if (n_spans_ == 1) {
        finish(item, state, args.out);
    } else if (--spans_left_[static_cast<size_t>(i / n_spans_)] == 0) {
        merge_spans(i / n_spans_, args.out);
    }
}

void attention_job::merge_spans(int64_t row_tile, float * out) {
    const int64_t first = row_tile * n_spans_;
    const auto state_of = [&](int64_t i) {
        return softmax_state::at(static_cast<float *>(span_states_.get()) + static_cast<size_t>(i) * state_floats_,
                                 kernels_.row_tile);
    };
    const softmax_state all = state_of(first);
    const attention_item & item = items_[static_cast<size_t>(first)];
    for (int64_t span = 1; span < n_spans_; ++span) {
        merge(all, state_of(first + span), item.n_rows, kernels_.row_tile, head_dim_);
    }
    finish(item, all, out);
}

void attention_job::finish(const attention_item & item, const softmax_state & state, float * out) const {
    for (int32_t r = 0; r < item.n_rows; ++r) {
        const int64_t row = item.first_row + r;
        const int64_t head = item.head * args_.group() + row % args_.group();
        float * const to = out + (row / args_.group() * args_.n_head + head) * head_dim_;
        const float inverse = state.l[r] > 0.0f ? 1.0f / state.l[r] : 0.0f;
        for (int32_t c = 0; c < head_dim_; ++c) {
            to[c] = state.o[c * kernels_.row_tile + r] * inverse;
        }
    }
}

size_t attention_job::bytes() const {
    return scratch_.size() * (scratch_bytes_ + state_floats_ * sizeof(float)) +
           span_capacity_ * state_floats_ * sizeof(float);
}

}  // namespace livekv
