#include "policy/shift.h"

#include <algorithm>

#include "error.h"
#include "kernels/cpu/rotate_rows.h"
#include "kv/f16.h"
#include "kv/kv_pack.h"
#include "kv/kv_state.h"
#include "policy/chunk_seal.h"
#include "policy/kivi_seal.h"
#include "rope/key_shift.h"

namespace livekv {

namespace {

// Keys f16 [n_tokens, n_head_kv, head_dim] as they are some positions on.
class turner {
  public:
    turner(const chunk_plan & plan, const rope_params & rope, int64_t by)
        : shift_(rope, by), head_dim_(static_cast<size_t>(plan.head_dim)), rotation_(plan.k_rotation) {}

    void turn(std::span<float> key) const {
        rotate_rows(key.data(), static_cast<int32_t>(head_dim_), rotation_, 1);  // its own inverse
        shift_.apply(key);
        rotate_rows(key.data(), static_cast<int32_t>(head_dim_), rotation_, 1);
    }

    void turn(const float * from, uint16_t * to) {
        key_.assign(from, from + head_dim_);
        turn(key_);
        std::ranges::transform(key_, to, f32_to_f16_finite);
    }

    void turn(std::span<uint16_t> rows) {
        std::vector<float> key(head_dim_);
        for (size_t at = 0; at + head_dim_ <= rows.size(); at += head_dim_) {
            std::transform(rows.begin() + static_cast<ptrdiff_t>(at),
                           rows.begin() + static_cast<ptrdiff_t>(at + head_dim_), key.begin(), f16_to_f32);
            turn(key.data(), rows.data() + at);
        }
    }

  private:
    key_shift shift_;
    size_t head_dim_;
    int32_t rotation_;
    std::vector<float> key_;
};

// A head's numbers of the state after a chunk; none where it is not known.
std::vector<float> state_of(const chunk_plan & plan, const kv_chunk & c, int64_t head) {
    const size_t n = c.state ? plan.state_floats() / static_cast<size_t>(plan.n_head_kv) : 0;
    std::vector<float> state;
    for (size_t i = 0; i < n; ++i) {
        state.push_back(state_number(c.state->data(), state_is_f16(plan.method), static_cast<size_t>(head) * n + i));
    }
    return state;
}

// The keys of blocks, turned: f16 rows.
std::vector<uint16_t> turned_rows(const chunk_plan & plan, const kv_chunk & c, turner & by) {
    std::vector<uint16_t> rows(static_cast<size_t>(c.n_stored) * plan.row());
    const size_t block_bytes = c.k.bytes->bytes() / static_cast<size_t>(plan.n_head_kv);
    const size_t d = static_cast<size_t>(plan.head_dim);
    for (size_t h = 0; h < static_cast<size_t>(plan.n_head_kv); ++h) {
        const std::vector<float> keys = unpack_block(c.k.bytes->data() + h * block_bytes);
        for (size_t t = 0; t < static_cast<size_t>(c.n_stored); ++t) {
            by.turn(keys.data() + t * d, rows.data() + t * plan.row() + h * d);
        }
    }
    return rows;
}

// A chunk's keys, which lie behind the chunk `before`, turned: pages of their own, and the state after them.
void move_chunk(const chunk_plan & plan, const cpu_kernels & kernels, turner & by, const kv_chunk & before,
                kv_chunk & c) {
    if (!c.k.sealed()) {
        c.k.bytes = c.k.bytes->copy(host_memory());
        by.turn({c.k.bytes->as<uint16_t>(), c.k.bytes->bytes() / sizeof(uint16_t)});
        return;
    }
    const kv_chunk old = c;
    const std::vector<uint16_t> rows = turned_rows(plan, old, by);
    c.k.bytes = std::make_shared<page>(host_memory(), old.k.bytes->bytes());
    c.state = old.state ? std::make_shared<page>(host_memory(), plan.state_bytes()) : nullptr;
    const size_t block_bytes = c.k.bytes->bytes() / static_cast<size_t>(plan.n_head_kv);
    for (int64_t h = 0; h < plan.n_head_kv; ++h) {
        std::vector<float> state = state_of(plan, old, h);
        const auto roots = plan.reads_queries() ? std::span<const float>(state).subspan(plan.range_floats())
                                                : std::span<const float>();
        const query_squares queries(plan.reads_queries() ? plan.head_dim : 0, roots, 1);
        const chunk_rows head{rows.data() + h * plan.head_dim, plan.row(), c.n_stored, plan.head_dim, 0};
        if (plan.kivi) {
            seal_kivi_rows(*old.k.header, kernels, head, c.k.bytes->data() + static_cast<size_t>(h) * block_bytes,
                           nullptr);
            continue;
        }
        seal_chunk_keys(plan, kernels, head, state_of(plan, before, h), state, queries, {},
                        c.k.bytes->data() + static_cast<size_t>(h) * block_bytes, {}, nullptr);
        for (size_t i = 0; i < state.size(); ++i) {
            put_state_number(c.state->data(), state_is_f16(plan.method), static_cast<size_t>(h) * state.size() + i,
                             state[i]);
        }
    }
}

}  // namespace

token_run shiftable(const chunk_plan & plan, const kv_layer & layer, int64_t n_keep, int64_t n_wanted) {
    token_run run;
    int64_t end = 0;
    for (const kv_chunk & c : layer.chunks) {
        end += c.n_tokens;
        if (run.first == 0) {
            run.first = end >= n_keep ? end : 0;
        } else if (run.n < n_wanted) {
            run.n = end - run.first;
        }
    }
    const int64_t kept_from = plan.kept_from(layer.n_chunked - run.n);
    end = 0;
    for (const kv_chunk & c : layer.chunks) {
        end += c.n_tokens;
        const bool leaves = end > run.first && end <= run.end();
        const int64_t moved_end = end <= run.first ? end : end - run.n;
        if (!leaves && c.given_back() && moved_end > kept_from) {
            return {run.first, 0};
        }
    }
    return {run.first, run.n >= n_wanted ? run.n : 0};
}

kv_layer shifted(const chunk_plan & plan, const cpu_kernels & kernels, const rope_params & rope, const kv_layer & layer,
                 const token_run & leaving) {
    kv_layer out = layer;
    size_t first = 0;
    for (int64_t end = 0; end < leaving.first; ++first) {
        end += layer.chunks[first].n_tokens;
    }
    size_t last = first;
    for (int64_t n = 0; n < leaving.n; ++last) {
        n += layer.chunks[last].n_tokens;
    }
    LIVEKV_ASSERT(first > 0);
    out.chunks.erase(out.chunks.begin() + static_cast<ptrdiff_t>(first),
                     out.chunks.begin() + static_cast<ptrdiff_t>(last));
    out.n_chunked -= leaving.n;
    ++out.n_edits;
    out.chunks[first - 1].from_one_pass = false;  // what comes after has seen more than those who might share it
    if (plan.turns) {
        return out;
    }
    turner back(plan, rope, -leaving.n);
    for (size_t i = first; i < out.chunks.size(); ++i) {
        if (!out.chunks[i].given_back()) {
            move_chunk(plan, kernels, back, out.chunks[i - 1], out.chunks[i]);
        }
    }
    back.turn({out.tail.k.data(), static_cast<size_t>(out.n_tail) * plan.row()});
    return out;
}

}  // namespace livekv
