#pragma once

// A layer of policy guided without a model, driven pass by pass over rows of a text, and the scalar reference beside
// it.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "check.h"
#include "driven_prompt.h"
#include "kernels/attention_job.h"
#include "kv/guided_layer.h"
#include "kv/kv_pack.h"
#include "kv/level_block.h"
#include "policy/going_on.h"
#include "policy/guided_seal.h"
#include "policy/kv_spec.h"
#include "random_rows.h"
#include "run/guide_step.h"
#include "store/tail_weights.h"

namespace guided_layers {

using namespace livekv;

constexpr int64_t n_head = 4;
constexpr int64_t n_head_kv = 2;
constexpr int64_t head_dim = 16;
constexpr int64_t chunk_size = 64;

inline std::vector<chunk_plan> plans_of(const std::string & spec, int64_t n_layer) {
    kv_shape shape;
    shape.n_ctx = 4096;
    for (int64_t il = 0; il < n_layer; ++il) {
        shape.layers.push_back({n_head, n_head_kv, head_dim});
    }
    return plan_chunks(parse_kv_spec(spec), shape);
}

inline std::vector<int32_t> all_of(int64_t n) {
    std::vector<int32_t> tokens(static_cast<size_t>(n));
    std::iota(tokens.begin(), tokens.end(), 0);
    return tokens;
}

// Rows of a text of n tokens.
struct text_rows {
    int64_t n;
    std::vector<float> q;  // [n, n_head, head_dim]
    std::vector<float> k;  // [n, n_head_kv, head_dim]
    std::vector<float> v;

    explicit text_rows(int64_t n_tokens, uint32_t seed = 7) : n(n_tokens) {
        std::mt19937 rng(seed);
        q = random_rows(row_kind::normal, n, n_head * head_dim, rng);
        k = random_rows(row_kind::normal, n, n_head_kv * head_dim, rng);
        v = random_rows(row_kind::normal, n, n_head_kv * head_dim, rng);
        for (float & x : q) {  // some tokens are looked at far more than others
            x *= 2.0f;
        }
    }

    // Tokens first ... first + m - 1 of one of them, [heads, m, head_dim].
    static std::vector<float> by_head(const std::vector<float> & rows, int64_t heads, int64_t first, int64_t m) {
        std::vector<float> out;
        for (int64_t h = 0; h < heads; ++h) {
            for (int64_t t = first; t < first + m; ++t) {
                const auto from = rows.begin() + (t * heads + h) * head_dim;
                out.insert(out.end(), from, from + head_dim);
            }
        }
        return out;
    }

    // The same chunk for the reference.
    guided_chunk add_to(guided_layer & reference, int64_t first, int64_t m) const {
        return add_to(reference, first, all_of(m), m);
    }

    // Of a chunk of m tokens from first on, these.
    guided_chunk add_to(guided_layer & reference, int64_t first, std::span<const int32_t> tokens, int64_t m) const {
        const int64_t n_in = static_cast<int64_t>(tokens.size());
        std::vector<int64_t> positions;
        std::vector<float> rows[3];
        for (const int32_t token : tokens) {
            positions.push_back(first + token);
            for (const auto & [from, heads, to] :
                 {std::tuple(&q, n_head, 0), std::tuple(&k, n_head_kv, 1), std::tuple(&v, n_head_kv, 2)}) {
                const auto at = from->begin() + positions.back() * heads * head_dim;
                rows[to].insert(rows[to].end(), at, at + heads * head_dim);
            }
        }
        const auto of_q = by_head(rows[0], n_head, 0, n_in);
        const auto of_k = by_head(rows[1], n_head_kv, 0, n_in);
        const auto of_v = by_head(rows[2], n_head_kv, 0, n_in);
        return reference.add({of_q, of_k, of_v, positions}, m).front();
    }
};

inline guided_layer reference_of(const guided_plan & plan, int64_t n_prompt) {
    return {plan.method, guided_place_of(plan.method, plan.layer, plan.n_layer, n_prompt),
            guided_layer::shape{n_head, n_head_kv, head_dim}};
}

// Codes of a side of a sealed chunk, [n_head_kv, n, head_dim], 0 where there is none or they are kept as they are.
inline std::vector<uint8_t> codes_of(const kv_chunk_side & side, int64_t n) {
    std::vector<uint8_t> codes;
    for (int64_t h = 0; h < n_head_kv; ++h) {
        const uint8_t * const block = side.bytes->data() + side.bytes->bytes() / n_head_kv * static_cast<size_t>(h);
        std::array<int64_t, kv_n_levels> at = {};
        for (int64_t t = 0; t < n; ++t) {
            const uint8_t level = level_of_token(block, static_cast<int32_t>(t));
            const kv_level one = level == kv_no_level ? kv_level{} : level_of_block(block, level);
            for (int64_t c = 0; c < head_dim; ++c) {
                codes.push_back(0);
                if (level != kv_no_level && one.bits < 16) {
                    const sealed_chunk sealed = read_block(block + one.offset);
                    codes.back() = static_cast<uint8_t>(sealed.codes[static_cast<size_t>(at[level] * head_dim + c)]);
                }
            }
            at[level == kv_no_level ? 0 : level] += level != kv_no_level;
        }
    }
    return codes;
}

// A layer in the host's memory and the passes over it, whose rows are a text's.
struct driven {
    chunk_plan plan;
    const text_rows & text;
    const cpu_kernels & kernels = best_cpu_kernels();
    kv_layer layer;
    std::vector<float> weights;  // of each token of the sequence

    driven(const chunk_plan & p, const text_rows & rows) : plan(p), text(rows), layer(make_layer(p, false)) {}

    // n_prompt 0: generated. going: those that come into the layer; null: all.
    void pass(int64_t n, int64_t n_prompt, going_on * going = nullptr) {
        layer_step step(layer, plan);
        const int64_t first = layer.n_tokens();
        step.begin(n, layer.n_tail + n == plan.chunk_size, true, n_prompt, going);
        const int64_t n_rows = step.n_rows();
        raw_rows passing;
        if (step.passes_through()) {
            passing.reserve(static_cast<size_t>(n_rows) * plan.row(), host_memory());
            step.use_rows(passing.k.data(), passing.v.data());
        }
        std::vector<float> queries;
        for (int64_t i = 0; i < n_rows; ++i) {
            const size_t at = static_cast<size_t>(first + step.token_of_row(i));
            CHECK(host_step::store(step, kernels, i, text.k.data() + at * plan.row(), text.v.data() + at * plan.row()));
            const auto from = text.q.begin() + static_cast<std::ptrdiff_t>(at) * n_head * head_dim;
            queries.insert(queries.end(), from, from + n_head * head_dim);
        }
        std::vector<float> out(queries.size());
        host_step host;
        const std::span<const kv_segment> segments = host.segments(step);
        attention_args args;
        args.q = queries.data();
        args.out = out.data();
        args.n_tokens = static_cast<int32_t>(n_rows);
        args.n_head = n_head;
        args.n_head_kv = n_head_kv;
        args.head_dim = head_dim;
        args.scale = 0.25f;
        args.segments = segments.data();
        args.n_segments = static_cast<int64_t>(segments.size());
        guide_weigher guides;
        if (step.weighs_guide()) {
            guides.reserve(n_rows * n_head);
            args.log_sums = guides.add(step, args, 0, first);
            guides.collect();
        }
        attention_job job(kernels, 1, head_dim);
        job.prepare({&args, 1});
        job.run(0, args.q, args.out);
        guides.weigh(kernels, args.q, 0, 2);
        guides.weigh(kernels, args.q, 1, 2);
        choose_going_on(step);
        const float * const mine = layer.tail_weights.data() + layer.n_tail;
        weights.insert(weights.end(), mine, mine + n);
        for (int64_t seal = host_step::n_seal_jobs(step) - 1; seal >= 0; --seal) {  // in any order
            host_step::seal(step, kernels, seal, {});
        }
        step.commit();
    }
};

// Bytes of the chunks, their states and sinks.
inline std::vector<uint8_t> bytes_of(const std::vector<kv_layer> & layers) {
    std::vector<uint8_t> all;
    for (const kv_layer & layer : layers) {
        for (const kv_chunk & c : layer.chunks) {
            for (const page * one : {c.k.bytes.get(), c.v.bytes.get(), c.state.get()}) {
                all.insert(all.end(), one->data(), one->data() + one->bytes());
            }
        }
        const auto * const sinks = reinterpret_cast<const uint8_t *>(layer.sinks.k.data());
        all.insert(all.end(), sinks, sinks + 2 * layer.sinks.k.size());
    }
    return all;
}

}  // namespace guided_layers
