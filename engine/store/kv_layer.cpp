#include "store/kv_layer.h"

#include <algorithm>

#include "kv/level_block.h"
#include "store/tail_weights.h"

namespace livekv {

namespace {

// A segment a level. Its tokens are in order, so what a trim left of the chunk is the first ones of each. Positions are
// not theirs: nothing that reads them has levels.
void append_levels(const kv_chunk & c, int64_t n_head_kv, std::vector<kv_segment> & out) {
    const uint8_t * const k = c.k.bytes->data();
    const uint8_t * const v = c.v.bytes->data();
    for (int32_t level = 0; level < kv_n_levels; ++level) {
        kv_segment s;
        s.n_tokens = tokens_of_level(k, level, c.n_tokens);
        s.k_blocks = k + level_of_block(k, level).offset;
        s.v_blocks = v + level_of_block(v, level).offset;
        s.k_block_bytes = c.k.bytes->bytes() / static_cast<size_t>(n_head_kv);
        s.v_block_bytes = c.v.bytes->bytes() / static_cast<size_t>(n_head_kv);
        if (s.n_tokens > 0) {
            out.push_back(s);
        }
    }
}

}  // namespace

int64_t kv_layer::n_tail_rows() const {
    if (tail_weights.empty()) {
        return n_tail;
    }
    return std::count_if(tail_weights.data(), tail_weights.data() + n_tail, tail_weight::is_held);
}

void kv_layer::trim(int64_t n) noexcept {
    if (n == 0) {
        chunks.clear();
        n_chunked = n_tail = 0;
        sinks.release();
        release_tail();
        errors.assign(errors.size(), {});
        ++n_edits;
        return;
    }
    if (n >= n_chunked) {
        n_tail = n - n_chunked;
        return;
    }
    n_tail = 0;
    release_tail();
    ++n_edits;
    while (n_chunked - chunks.back().n_tokens >= n) {
        n_chunked -= chunks.back().n_tokens;
        chunks.pop_back();
    }
    chunks.back().n_tokens -= static_cast<int32_t>(n_chunked - n);
    n_chunked = n;
}

void kv_layer::release_tail() noexcept {
    tail.release();
    tail_queries.release();
    tail_weights.release();
}

void kv_layer::give_back_before(int64_t position) noexcept {
    int64_t end = 0;
    for (size_t i = 0; i + 1 < chunks.size(); ++i) {
        kv_chunk & c = chunks[i];
        end += c.n_tokens;
        if (end > position) {
            return;
        }
        if (!c.given_back()) {
            c.k = c.v = {};
            c.state.reset();
            ++n_edits;
        }
        if (i == 0) {
            sinks.release();
        }
    }
}

kv_layer kv_layer::copy(place & to) const {
    kv_layer other = *this;
    other.where = &to;
    for (kv_chunk & c : other.chunks) {
        if (c.given_back()) {
            continue;
        }
        c.k.bytes = c.k.bytes->copy(to);
        c.v.bytes = c.v.bytes->copy(to);
        c.state = c.state ? c.state->copy(to) : nullptr;
    }
    const bool has_sinks = !chunks.empty() && !chunks.front().given_back();
    other.sinks = sinks.copy(to, has_sinks ? static_cast<size_t>(chunks.front().n_sinks) * row() : 0);
    other.tail = tail.copy(to, tail.k.size());
    other.tail_queries = tail_queries.copy(to, tail_queries.size());
    other.tail_weights = tail_weights.copy(to, tail_weights.size());
    return other;
}

void kv_layer::append_segments(std::vector<kv_segment> & out) const {
    if (!chunks.empty() && chunks.front().n_sinks > 0 && !chunks.front().given_back()) {
        kv_segment s;
        s.n_tokens = std::min(chunks.front().n_sinks, chunks.front().n_tokens);
        s.k_rows = sinks.k.data();
        s.v_rows = sinks.v.data();
        out.push_back(s);
    }
    int64_t first = 0;
    for (const kv_chunk & c : chunks) {
        kv_segment s;
        s.first = first;
        first += c.n_tokens - c.n_absent;
        if (c.given_back()) {
            continue;
        }
        if (c.k.sealed() && c.k.header->has_levels()) {
            append_levels(c, n_head_kv, out);
            continue;
        }
        s.n_tokens = c.n_tokens - c.n_absent;
        s.n_skip = c.n_sinks;
        s.k_block_bytes = c.k.bytes->bytes() / static_cast<size_t>(n_head_kv);
        s.v_block_bytes = c.v.bytes->bytes() / static_cast<size_t>(n_head_kv);
        s.k_blocks = c.k.sealed() ? c.k.bytes->data() : nullptr;
        s.v_blocks = c.v.sealed() ? c.v.bytes->data() : nullptr;
        s.k_rows = c.k.sealed() ? nullptr : c.k.bytes->as<uint16_t>();
        s.v_rows = c.v.sealed() ? nullptr : c.v.bytes->as<uint16_t>();
        out.push_back(s);
    }
}

}  // namespace livekv
