// What a layer of policy guided takes, from its allocations, beside the bits of its codes.

#include <random>

#include "check.h"
#include "policy/guided_report.h"
#include "policy/kv_spec.h"
#include "random_rows.h"
#include "run/layer_step.h"
#include "store/kv_report.h"

using namespace livekv;

namespace {

constexpr int64_t chunk_size = 512;
constexpr int64_t head_dim = 128;

chunk_plan plan_of(const char * spec, int64_t layer) {
    kv_shape shape;
    shape.n_ctx = 100000;
    for (int64_t il = 0; il < 32; ++il) {
        shape.layers.push_back({1, 1, head_dim});
    }
    return plan_chunks(parse_kv_spec(spec), shape)[static_cast<size_t>(layer)];
}

// A prompt whose tokens give the guide any weight.
void read_prompt(kv_layer & layer, const chunk_plan & plan, int64_t n_prompt) {
    std::mt19937 rng(5);
    std::uniform_real_distribution<float> weight(0.0f, 1.0f);
    const std::vector<float> row = random_rows(row_kind::normal, 1, head_dim, rng);
    raw_rows passing;
    passing.reserve(chunk_size * head_dim, host_memory());
    while (layer.n_tokens() < n_prompt) {
        layer_step step(layer, plan);
        step.begin(chunk_size, true, true, n_prompt);
        step.use_rows(passing.k.data(), passing.v.data());
        for (int64_t i = 0; i < chunk_size; ++i) {
            CHECK(host_step::store(step, best_cpu_kernels(), i, row.data(), row.data()));
            layer.tail_weights.data()[i] = weight(rng);
        }
        for (int64_t job = 0; job < host_step::n_seal_jobs(step); ++job) {
            host_step::seal(step, best_cpu_kernels(), job, {});
        }
        step.commit();
    }
}

}  // namespace

TEST(a_value_takes_its_code_and_less_than_half_a_bit) {
    for (const char * spec : {"guided", "guided:propagate=cache", "guided:key-axis=token", "guided:level-bits=4,4,4"}) {
        for (const int64_t n_prompt : {2048, 16384}) {
            for (const int64_t il : {0, 31}) {
                IN("spec=", spec, " n=", n_prompt, " layer=", il);
                const chunk_plan plan = plan_of(spec, il);
                kv_layer layer = make_layer(plan, false);
                read_prompt(layer, plan, n_prompt);
                kv_report report;
                add_layer(report, layer, false);
                const double n_values = 2.0 * static_cast<double>(n_prompt) * head_dim;
                const double bits = 8.0 * static_cast<double>(report.bytes.total()) / n_values;
                const kv_guided_layer said = guided_report(plan, layer, layer);
                const double code_bits = said.code_bits / static_cast<double>(said.n_tokens);
                CHECK_EQ(said.n_tokens, n_prompt);
                CHECK(code_bits > 0.5 && code_bits < 5.0);
                // A byte a token for its level; a scale and a minimum a token, or, with its place and width, a channel
                // and level of 512 tokens; what is not used of each level's last row of bricks.
                const double n_grids = plan.guided->method.keys == guided_method::key_axis::token ? 2.0 : 1.0;
                CHECK(bits - code_bits > 8.0 / head_dim);
                const double grids = 0.5 * (32.0 / head_dim * n_grids + 3.0 * 50.0 / chunk_size);
                CHECK(bits - code_bits < 8.0 / head_dim + grids + 0.1);
            }
        }
    }
}

TEST_MAIN
