#pragma once

// The layers of a prompt of policy guided whose guide is at its end, without a model, driven pass by pass.

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "error.h"
#include "kv/level_block.h"
#include "run/guided_prompt.h"

namespace guided_layers {

using namespace livekv;

// All layers have the same rows: q [n, n_head, head_dim], k and v [n, n_head_kv, head_dim]. In the host's memory.
struct driven_prompt {
    std::vector<chunk_plan> plans;
    int64_t n_head;
    std::span<const float> q;
    std::span<const float> k;
    std::span<const float> v;
    const cpu_kernels & kernels;
    std::vector<kv_layer> layers;
    guided_prompt prompt;

    driven_prompt(const std::vector<chunk_plan> & p, int64_t n_query_heads, std::span<const float> queries,
                  std::span<const float> keys, std::span<const float> values, const cpu_kernels & of)
        : plans(p),
          n_head(n_query_heads),
          q(queries),
          k(keys),
          v(values),
          kernels(of),
          prompt(plans, shape_of(plans, n_query_heads)) {
        for (const chunk_plan & plan : plans) {
            layers.push_back(make_layer(plan, false));
        }
    }

    static kv_shape shape_of(const std::vector<chunk_plan> & plans, int64_t n_query_heads) {
        kv_shape shape;
        for (const chunk_plan & plan : plans) {
            shape.layers.push_back({n_query_heads, plan.n_head_kv, plan.head_dim});
        }
        return shape;
    }

    // commits: false: what a pass that fails leaves.
    void pass(int64_t n, bool ends, bool commits = true) {
        std::vector<layer_step> steps;
        std::vector<raw_rows> passing(layers.size());
        const int64_t first = layers.front().n_tokens();
        for (size_t il = 0; il < layers.size(); ++il) {
            layer_step & step = steps.emplace_back(layers[il], plans[il]);
            step.begin(n, ends || layers[il].n_tail + n == plans[il].chunk_size, true);
            if (ends) {
                step.errors.assign(step.errors.size(), {});
            }
            if (step.passes_through()) {
                passing[il].reserve(static_cast<size_t>(n) * plans[il].row(), host_memory());
                step.use_rows(passing[il].k.data(), passing[il].v.data());
            }
        }
        prompt.begin(steps, ends);
        for (layer_step & step : steps) {
            compute(step, first, ends);
        }
        if (!commits) {
            return;
        }
        for (layer_step & step : steps) {
            step.commit();
        }
        prompt.commit(layers);
    }

    // In passes of up to so many tokens, which end where a chunk does.
    void read(int64_t n_prompt, int64_t piece) {
        const int64_t chunk = plans.front().chunk_size;
        for (int64_t done = 0; done < n_prompt;) {
            const int64_t n = std::min({piece, n_prompt - done, chunk - done % chunk});
            done += n;
            pass(n, done == n_prompt);
        }
    }

  private:
    // Jobs in the opposite order, as they may come in any.
    void compute(layer_step & step, int64_t first, bool ends) {
        const chunk_plan & plan = *step.plan;
        for (int64_t i = 0; i < step.n_new; ++i) {
            const size_t at = static_cast<size_t>(first + i) * plan.row();
            LIVEKV_ASSERT(host_step::store(step, kernels, i, k.data() + at, v.data() + at));
        }
        host_step host;
        const query_rows queries = {q.data() + first * n_head * plan.head_dim, n_head};
        const float scale = 1.0f / std::sqrt(static_cast<float>(plan.head_dim));
        for (int64_t head = plan.n_head_kv - 1; head >= 0; --head) {
            prompt.weigh(step, kernels, host.segments(step), queries, scale, head);
        }
        if (ends) {
            prompt.decide(step);
        }
        const int64_t n_jobs = ends ? prompt.n_seal_jobs(step) : host_step::n_seal_jobs(step);
        for (int64_t job = n_jobs - 1; job >= 0; --job) {
            ends ? prompt.seal(step, kernels, job) : host_step::seal(step, kernels, job, {});
        }
    }
};

// The bits of each token of a chunk, as its blocks have them.
inline std::vector<uint8_t> stored_bits(const kv_chunk & chunk) {
    std::vector<uint8_t> bits;
    const uint8_t * const block = chunk.k.bytes->data();
    for (int32_t t = 0; t < chunk.n_stored; ++t) {
        const uint8_t level = level_of_token(block, t);
        bits.push_back(level == kv_no_level ? 0 : static_cast<uint8_t>(level_of_block(block, level).bits));
    }
    return bits;
}

}  // namespace guided_layers
