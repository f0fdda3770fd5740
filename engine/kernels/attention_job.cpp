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
// A call has at least so many pieces where its context allows, more the longer that is, so that threads find work; a
// span is long enough for what it costs to join it. Nothing of it may depend on the number of threads: results would.
constexpr int64_t least_items = 16;
constexpr int64_t most_items = 256;
constexpr int64_t tiles_per_item = 128;
constexpr int64_t min_span_tiles = 32;

int64_t ceil_div(int64_t n, int64_t by) {
    return (n + by - 1) / by;
}

int64_t wanted_items(int64_t context_tiles) {
    return std::clamp(context_tiles / tiles_per_item, least_items, most_items);
}

int64_t most_spans(int64_t context_tiles) {
    return std::max<int64_t>(context_tiles / min_span_tiles, 1);
}

// Where the tiles begin of which some token sees something.
attention_item first_seen_tile(const attention_args & args) {
    attention_item at;
    const int64_t seen_from = args.first_seen(0);
    while (at.first_segment + 1 < args.n_segments) {
        const kv_segment & s = args.segments[at.first_segment];
        if (s.first + s.n_tokens > seen_from) {
            break;
        }
        ++at.first_segment;
    }
    const int64_t before = seen_from - args.segments[at.first_segment].first;
    at.first_tile = static_cast<int32_t>(std::max<int64_t>(0, before) / kv_tile_tokens);
    return at;
}

}  // namespace

int64_t least_rows_alike(const cpu_kernels & kernels, int64_t n_head_kv, int64_t n_tokens, int64_t n_segments) {
    const int64_t context_tiles = n_tokens / kv_tile_tokens + n_segments;  // each segment may end within one
    const bool cut = most_spans(context_tiles) > 1;
    const int64_t uncut_tiles = cut ? ceil_div(wanted_items(context_tiles), n_head_kv) : 1;
    return std::max<int64_t>(kernels.row_tile, (uncut_tiles - 1) * kernels.row_tile) + 1;
}

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

void attention_job::prepare(std::span<const attention_args> calls) {
    calls_.clear();
    pieces_.clear();
    size_t n_tiles = 0;
    bool in_spans = false;
    int64_t first_token = 0;
    for (const attention_args & args : calls) {
        LIVEKV_ASSERT(args.head_dim == head_dim_ && args.n_segments > 0);
        const attention_item seen = first_seen_tile(args);
        int64_t context_tiles = -seen.first_tile;
        for (int64_t i = seen.first_segment; i < args.n_segments; ++i) {
            context_tiles += kv_ceil_div(args.segments[i].n_tokens, kv_tile_tokens);
        }
        const int64_t row_tiles = ceil_div(args.n_rows(), kernels_.row_tile);
        const int64_t base = row_tiles * args.n_head_kv;
        const int64_t n_spans = std::min(most_spans(context_tiles), ceil_div(wanted_items(context_tiles), base));
        calls_.push_back({args, first_token, n_spans});
        cut(calls_.back(), calls_.size() - 1, seen, context_tiles, n_tiles);
        n_tiles += static_cast<size_t>(base);
        in_spans = in_spans || n_spans > 1;
        first_token += args.n_tokens;
    }
    const auto n_pieces = static_cast<int64_t>(pieces_.size());
    const auto n_threads = static_cast<int64_t>(shares_.size());
    for (int64_t i = 0; i < n_threads; ++i) {
        shares_[static_cast<size_t>(i)].next = n_pieces * i / n_threads;
        shares_[static_cast<size_t>(i)].end = n_pieces * (i + 1) / n_threads;
    }
    if (in_spans) {
        if (span_capacity_ < pieces_.size()) {
            span_states_ = allocate(pieces_.size() * state_floats_ * sizeof(float));
            span_capacity_ = pieces_.size();
        }
        if (spans_left_.size() < n_tiles) {
            spans_left_ = std::vector<std::atomic<int64_t>>(n_tiles);
        }
        for (const piece & p : pieces_) {
            spans_left_[p.tile] = calls_[p.call].n_spans;
        }
    }
}

// Where spans begin is the same for every head and row tile: found once, then repeated.
void attention_job::cut(const call & c, size_t index, attention_item at, int64_t context_tiles, size_t first_tile) {
    const attention_args & args = c.args;
    std::vector<attention_item> spans;
    int64_t done = 0;
    for (int64_t span = 0; span < c.n_spans; ++span) {
        at.n_tiles = context_tiles * (span + 1) / c.n_spans - done;
        spans.push_back(at);
        done += at.n_tiles;
        for (int64_t left = at.n_tiles; left > 0;) {
            const int32_t here = kv_ceil_div(args.segments[at.first_segment].n_tokens, kv_tile_tokens) - at.first_tile;
            const int64_t step = std::min<int64_t>(left, here);
            at.first_tile += static_cast<int32_t>(step);
            left -= step;
            if (step == here) {
                ++at.first_segment;
                at.first_tile = 0;
            }
        }
    }
    const int64_t row_tiles = ceil_div(args.n_rows(), kernels_.row_tile);
    for (int32_t head = 0; head < args.n_head_kv; ++head) {
        for (int64_t r = 0; r < row_tiles; ++r) {
            for (size_t span = 0; span < spans.size(); ++span) {
                attention_item item = spans[span];
                item.head = head;
                item.first_row = r * kernels_.row_tile;
                item.n_rows =
                    static_cast<int32_t>(std::min<int64_t>(kernels_.row_tile, args.n_rows() - item.first_row));
                pieces_.push_back(
                    {item, index, first_tile + static_cast<size_t>(head * row_tiles + r), static_cast<int64_t>(span)});
            }
        }
    }
}

void attention_job::run(int32_t thread, const float * q, float * out) {
    uint8_t * const scratch = static_cast<uint8_t *>(scratch_[static_cast<size_t>(thread)].get());
    for (size_t k = 0; k < shares_.size(); ++k) {
        share & from = shares_[(static_cast<size_t>(thread) + k) % shares_.size()];
        for (int64_t i = from.next++; i < from.end; i = from.next++) {
            work(static_cast<size_t>(i), q, out, scratch);
        }
    }
}

void attention_job::work(size_t i, const float * q, float * out, uint8_t * scratch) {
    const piece & p = pieces_[i];
    const call & c = calls_[p.call];
    attention_args args = c.args;
    const int64_t offset = c.first_token * args.n_head * head_dim_;
    args.q = q + offset;
    args.out = out + offset;
    float * const floats = c.n_spans == 1 ? reinterpret_cast<float *>(scratch + scratch_bytes_)
                                          : static_cast<float *>(span_states_.get()) + i * state_floats_;
    const softmax_state state = softmax_state::at(floats, kernels_.row_tile);
    kernels_.attend(args, p.item, scratch, state);
    if (c.n_spans == 1) {
        finish(p, state, args.out);
    } else if (--spans_left_[p.tile] == 0) {
        merge_spans(i - static_cast<size_t>(p.span), args.out);
    }
}

void attention_job::merge_spans(size_t first, float * out) {
    const auto state_of = [&](size_t i) {
        return softmax_state::at(static_cast<float *>(span_states_.get()) + i * state_floats_, kernels_.row_tile);
    };
    const softmax_state all = state_of(first);
    const piece & p = pieces_[first];
    for (size_t span = 1; span < static_cast<size_t>(calls_[p.call].n_spans); ++span) {
        merge(all, state_of(first + span), p.item.n_rows, kernels_.row_tile, head_dim_);
    }
    finish(p, all, out);
}

void attention_job::finish(const piece & p, const softmax_state & state, float * out) const {
    const attention_args & args = calls_[p.call].args;
    for (int32_t r = 0; r < p.item.n_rows; ++r) {
        const int64_t row = p.item.first_row + r;
        const int64_t head = p.item.head * args.group() + row % args.group();
        float * const to = out + (row / args.group() * args.n_head + head) * head_dim_;
        const float inverse = state.l[r] > 0.0f ? 1.0f / state.l[r] : 0.0f;
        if (args.log_sums) {
            args.log_sums[row / args.group() * args.n_head + head] = state.m[r] + std::log2(state.l[r]);
        }
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
