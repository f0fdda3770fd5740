// Sealing keys in classes of width by the device's kernels gives the reference's bytes, statistics and means of
// queries, chunk after chunk; on the device, or emulated thread by thread where there is none.

#include <array>
#include <cstring>

#include "cuda_sequences.h"
#include "kernels/cuda/simt.h"
#include "kv/kv_classes.h"
#include "kv/kv_state.h"
#include "policy/query_means.h"
#include "policy/query_squares.h"
#include "seal_configuration.h"
#include "two_heads.h"

using namespace livekv;

namespace {

constexpr int64_t class_lengths[] = {1, 5, 16, 31, 33, 48, 100, 160, 512};

// A chunk of a layer: keys and values f32 [n, n_heads, d], as f16 has them, and queries f32 [n, n_heads * group, d].
struct layer_chunk {
    int64_t n = 0;
    int64_t n_sinks = 0;
    int64_t n_waiting = 0;  // first tokens, whose queries came in passes before
    std::vector<float> k;
    std::vector<float> v;
    std::vector<float> q;
};

struct class_configuration : configuration {
    int64_t group = 1;  // query heads that share a kv head
    std::vector<layer_chunk> chunks;

    size_t range_floats() const { return method.scale_method == kv_method::scale::range ? 0 : static_cast<size_t>(d); }
    size_t state_floats() const { return range_floats() + static_cast<size_t>(d); }
};

std::vector<float> random_queries(size_t n, int64_t d, std::mt19937 & rng) {
    std::normal_distribution<float> normal;
    std::vector<float> q(n);
    for (size_t i = 0; i < n; ++i) {
        q[i] = normal(rng) * std::exp2(-0.3f * static_cast<float>(static_cast<int64_t>(i) % d * 11 % 29));
    }
    if (rng() % 4 == 0) {  // what a model may have broken
        q[rng() % n] = 1e30f;
        q[rng() % n] = -INFINITY;
        q[rng() % n] = NAN;
    }
    return q;
}

class_configuration draw_classes(std::mt19937 & rng, int64_t longest) {
    const auto one_of = [&](const auto & choices) { return choices[rng() % std::size(choices)]; };
    class_configuration c;
    c.method.key_classes = true;
    c.method.k_bits = 2 + static_cast<int32_t>(rng() % 4);
    c.method.key_quarters = static_cast<int32_t>(rng() % 4);
    c.method.v_bits = one_of(all_bits);
    c.method.scale_method = rng() % 3 ? kv_method::scale::ema_clipped : kv_method::scale::range;
    c.method.zero_point = true;
    c.method.key_group = one_of(key_groups);
    c.method.clip_factor = one_of(std::array{1.0, 4.0});
    c.method.outlier_ratio = 0.0;
    c.method.key_feedback = rng() % 2 == 0;
    c.d = one_of(head_dims);
    c.group = one_of(std::array{1, 3, 4});
    c.kind = one_of(all_row_kinds);
    const size_t n_chunks = 1 + rng() % 3;
    for (size_t i = 0; i < n_chunks; ++i) {
        layer_chunk chunk;
        chunk.n = std::min<int64_t>(one_of(class_lengths), longest);
        chunk.n_sinks = i == 0 && rng() % 2 ? std::min<int64_t>(chunk.n, one_of(std::array{4, 40})) : 0;
        chunk.n_waiting = static_cast<int64_t>(rng() % static_cast<uint32_t>(chunk.n));
        chunk.k = random_rows(c.kind, chunk.n * n_heads, c.d, rng);
        chunk.v = random_rows(c.kind, chunk.n * n_heads, c.d, rng);
        chunk.q = random_queries(static_cast<size_t>(chunk.n * n_heads * c.group * c.d), c.d, rng);
        if (i + 1 < n_chunks) {  // smaller at first: then the last one goes beyond N times what was seen
            for (float & x : chunk.k) {
                x = f16_to_f32(f32_to_f16(0.1f * x));
            }
        }
        c.chunks.push_back(std::move(chunk));
    }
    return c;
}

std::vector<float> numbers_of(const std::vector<uint16_t> & halves) {
    std::vector<float> x;
    for (const uint16_t h : halves) {
        x.push_back(f16_to_f32(h));
    }
    return x;
}

// What a chunk becomes.
struct sealed_layer {
    std::vector<uint8_t> waiting;  // queries, as they are kept
    std::vector<float> state;      // numbers that f16 holds
    std::vector<uint8_t> k;
    std::vector<uint8_t> v;
    std::vector<uint8_t> late;  // keys of the chunk before, sealed with this one
};

const std::vector<uint8_t> & operator+=(std::vector<uint8_t> & to, const std::vector<uint8_t> & more) {
    to.insert(to.end(), more.begin(), more.end());
    return to;
}

std::vector<sealed_layer> by_reference(const class_configuration & c) {
    std::vector<sealed_layer> all;
    std::vector<key_statistics> statistics(n_heads, key_statistics(c.method, c.d));
    int64_t n_before = 0;
    for (size_t i = 0; i < c.chunks.size(); ++i) {
        const layer_chunk & chunk = c.chunks[i];
        sealed_layer s;
        s.waiting.resize(static_cast<size_t>(chunk.n_waiting * n_heads * c.d));
        for (int64_t head = 0; head < n_heads; ++head) {
            const std::vector<float> old =
                i == 0 ? std::vector<float>()
                       : std::vector<float>(
                             all.back().state.begin() + static_cast<int64_t>(c.state_floats()) * head +
                                 static_cast<int64_t>(c.range_floats()),
                             all.back().state.begin() + static_cast<int64_t>(c.state_floats()) * (head + 1));
            query_squares squares(c.d, old, n_before);
            query_means mean_queries(c.group, c.d);
            for (int64_t t = 0; t < chunk.n; ++t) {
                const float * const q = chunk.q.data() + (t * n_heads + head) * c.group * c.d;
                if (t < chunk.n_waiting) {
                    uint8_t * const row = s.waiting.data() + (t * n_heads + head) * c.d;
                    c.method.key_feedback ? query_means::pack(q, t, c.group, c.d, row)
                                          : query_squares::pack(q, c.group, c.d, row);
                    squares.add_packed(row);
                    mean_queries.add_packed(row, t);
                } else {
                    squares.add(q, c.group);
                    mean_queries.add(q);
                }
            }
            key_statistics & seen = statistics[static_cast<size_t>(head)];
            const std::vector<float> keys = head_of(chunk.k, c.d, head);
            observe_keys(c.method, seen, keys, chunk.n_sinks);
            if (c.range_floats() > 0) {
                const std::vector<float> range = seen.state();
                s.state.insert(s.state.end(), range.begin(), range.end());
            }
            s.state.resize(s.state.size() + static_cast<size_t>(c.d));
            squares.root(std::span(s.state).last(static_cast<size_t>(c.d)));
            const std::vector<float> q2 = squares.mean();
            const std::vector<float> means = c.method.key_feedback ? mean_queries.means() : std::vector<float>();
            s.k += pack_block(block_header(c.method, kv_side::key, chunk.n, c.d),
                              seal_keys_by_class(c.method, seen, {q2, means}, keys, c.d, chunk.n_sinks));
            s.v += pack_block(block_header(c.method, kv_side::value, chunk.n, c.d),
                              seal_values(c.method, head_of(chunk.v, c.d, head), c.d, chunk.n_sinks));
            if (i > 0) {
                const layer_chunk & before = c.chunks[i - 1];
                s.late += pack_block(
                    block_header(c.method, kv_side::key, before.n, c.d),
                    seal_keys_by_class(c.method, seen, {q2, means}, head_of(before.k, c.d, head), c.d, before.n_sinks));
            }
        }
        n_before += chunk.n;
        all.push_back(std::move(s));
    }
    return all;
}

std::vector<sealed_layer> by_device(const class_configuration & c) {
    std::vector<sealed_layer> all;
    int64_t longest = 0;
    for (const layer_chunk & chunk : c.chunks) {
        longest = std::max(longest, chunk.n);
    }
    const device_buffer workspace(std::vector<uint32_t>(device::seal_words(c.method, static_cast<int32_t>(longest),
                                                                           static_cast<int32_t>(n_heads * c.group),
                                                                           n_heads, static_cast<int32_t>(c.d))));
    const auto blocks_of = [&](kv_side side, int64_t n) {
        return device_buffer(std::vector<uint8_t>(n_heads * kv_map(block_header(c.method, side, n, c.d)).bytes, 0xa5));
    };
    const auto job_of = [&](const layer_chunk & chunk, const device_buffer & keys) {
        device_seal s;
        s.k = keys.as<uint16_t>();
        s.n_tokens = static_cast<int32_t>(chunk.n);
        s.n_head_kv = n_heads;
        s.n_head = static_cast<int32_t>(n_heads * c.group);
        s.head_dim = static_cast<int32_t>(c.d);
        s.n_sinks = static_cast<int32_t>(chunk.n_sinks);
        s.state_floats = static_cast<int32_t>(c.state_floats());
        s.method = c.method;
        return s;
    };
    int64_t n_before = 0;
    for (size_t i = 0; i < c.chunks.size(); ++i) {
        const layer_chunk & chunk = c.chunks[i];
        const int64_t row = n_heads * c.group * c.d;
        const device_buffer q(chunk.q);
        const device_buffer k(to_f16(chunk.k));
        const device_buffer v(to_f16(chunk.v));
        const device_buffer waiting(static_cast<size_t>(chunk.n_waiting * n_heads * c.d));
        if (chunk.n_waiting > 0) {
            const auto n_first = static_cast<int32_t>((chunk.n_waiting + 1) / 2);  // in two passes
            const auto pack = [&](int32_t first, int32_t n) {
                if (n > 0) {
                    device::pack_queries(c.method, q.as<float>() + first * row, first, n,
                                         static_cast<int32_t>(n_heads * c.group), n_heads, static_cast<int32_t>(c.d),
                                         waiting.as<uint8_t>() + first * n_heads * c.d, nullptr);
                }
            };
            pack(0, n_first);
            pack(n_first, static_cast<int32_t>(chunk.n_waiting) - n_first);
        }
        const device_buffer old(i == 0 ? std::vector<uint16_t>() : to_f16(all.back().state));
        const device_buffer state(n_heads * c.state_floats() * state_number_bytes(state_is_f16(c.method)));
        const device_buffer k_blocks = blocks_of(kv_side::key, chunk.n);
        const device_buffer v_blocks = blocks_of(kv_side::value, chunk.n);
        device_seal s = job_of(chunk, k);
        s.v = v.as<uint16_t>();
        s.k_blocks = k_blocks.as<uint8_t>();
        s.v_blocks = v_blocks.as<uint8_t>();
        s.old_state = i == 0 ? nullptr : old.as<uint16_t>();
        s.new_state = state.as<uint16_t>();
        s.q = q.as<float>() + chunk.n_waiting * row;
        s.tail_queries = waiting.as<uint8_t>();
        s.n_new = static_cast<int32_t>(chunk.n - chunk.n_waiting);
        s.n_before = n_before;
        device::seal(s, workspace.as<uint32_t>(), nullptr);
        sealed_layer done = {waiting.read<uint8_t>(),
                             numbers_of(state.read<uint16_t>()),
                             k_blocks.read<uint8_t>(),
                             v_blocks.read<uint8_t>(),
                             {}};
        if (i > 0) {
            const layer_chunk & before = c.chunks[i - 1];
            const device_buffer keys(to_f16(before.k));
            const device_buffer late = blocks_of(kv_side::key, before.n);
            device_seal l = job_of(before, keys);
            l.k_blocks = late.as<uint8_t>();
            l.old_state = state.as<uint16_t>();
            device::seal(l, workspace.as<uint32_t>(), nullptr);
            done.late = late.read<uint8_t>();
        }
        n_before += chunk.n;
        all.push_back(std::move(done));
    }
    return all;
}

std::string difference(const class_configuration & c) {
    const std::vector<sealed_layer> expected = by_reference(c);
    const std::vector<sealed_layer> got = by_device(c);
    for (size_t i = 0; i < expected.size(); ++i) {
        const auto differs = [&](const auto & a, const auto & b, const char * what) {
            size_t at = 0;
            while (at < a.size() && at < b.size() && a[at] == b[at]) {
                ++at;
            }
            return a == b ? std::string()
                          : std::string(what) + " of chunk " + std::to_string(i) + " at " + std::to_string(at) +
                                " of " + std::to_string(b.size());
        };
        for (const std::string & where :
             {differs(got[i].waiting, expected[i].waiting, "queries"),
              differs(got[i].state, expected[i].state, "state"), differs(got[i].k, expected[i].k, "keys"),
              differs(got[i].v, expected[i].v, "values"), differs(got[i].late, expected[i].late, "keys sealed late")}) {
            if (!where.empty()) {
                return where;
            }
        }
    }
    return "";
}

void check_against_reference(int n_draws, uint32_t seed, int64_t longest) {
    std::mt19937 rng(seed);
    int n_different = 0;
    for (int i = 0; i < n_draws; ++i) {
        const class_configuration c = draw_classes(rng, longest);
        if (const std::string where = difference(c); !where.empty() && ++n_different <= 10) {
            check::report(__FILE__, __LINE__,
                          c.text() + " quarters " + std::to_string(c.method.key_quarters) + " chunks " +
                              std::to_string(c.chunks.size()) + ": " + where);
        }
    }
    CHECK_EQ(n_different, 0);
}

}  // namespace

TEST(the_device_gives_the_references_bytes) {
    check_against_reference(LIVEKV_CUDA_DRAWS, 31, 160);
}

TEST(whole_chunks) {
    std::mt19937 rng(32);
    for (const int64_t d : {64, 128, 512}) {
        IN("d=", d);
        class_configuration c = draw_classes(rng, 33);
        c.method.scale_method = kv_method::scale::ema_clipped;
        c.method.key_group = 128;
        c.d = d;
        c.chunks.resize(1);
        layer_chunk & chunk = c.chunks[0];
        chunk.n = 512;
        chunk.n_sinks = 4;
        chunk.n_waiting = 3;
        chunk.k = random_rows(row_kind::heavy_tailed, chunk.n * n_heads, d, rng);
        chunk.v = random_rows(row_kind::normal, chunk.n * n_heads, d, rng);
        chunk.q = random_queries(static_cast<size_t>(chunk.n * n_heads * c.group * d), d, rng);
        CHECK_EQ(difference(c), "");
    }
}

#if !defined(__CUDACC__)
TEST(the_order_of_threads_does_not_matter) {
    for (const simt::emulated::order o : simt::emulated::all_orders) {
        IN("order ", static_cast<int>(o));
        simt::emulated::set_order(o);
        check_against_reference(LIVEKV_CUDA_DRAWS / 10, 34, 100);
    }
    simt::emulated::set_order(simt::emulated::order::forward);
    simt::emulated::set_late_writes(true);
    check_against_reference(LIVEKV_CUDA_DRAWS / 10, 35, 100);
    simt::emulated::set_late_writes(false);
}
#endif

TEST_MAIN
