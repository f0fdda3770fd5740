// Rotary positions: one definition of angles, which the graph's nodes follow in both orders; and what may be changed.

#include <ggml-backend.h>
#include <ggml-cpp.h>
#include <ggml-cpu.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "check.h"
#include "error.h"
#include "rope/rope_override.h"

using namespace livekv;

namespace {

constexpr double float_error = 2e-5;  // ggml multiplies its way to each frequency in float32

rope_params usual(rope_order order) {
    rope_params p;
    p.order = order;
    p.n_rot = 64;
    p.n_ctx_orig = 512;
    return p;
}

// Every way to scale, in both orders.
std::vector<rope_params> all_ropes() {
    std::vector<rope_params> all;
    for (const rope_order order : {rope_order::normal, rope_order::neox}) {
        rope_params p = usual(order);
        all.push_back(p);
        p.n_rot = 48;  // of 64: the rest stays
        all.push_back(p);
        p.scaling = rope_scaling::linear;
        p.factor = 4.0f;
        all.push_back(p);
        p = usual(order);
        p.scaling = rope_scaling::yarn;
        p.factor = 8.0f;
        p.base = 5e5f;
        all.push_back(p);
        p.attn_factor = 0.75f;
        p.beta_fast = 8.0f;
        all.push_back(p);
        p = usual(order);
        for (int i = 0; i < 32; ++i) {
            p.divisors.push_back(1.0f + static_cast<float>(i) / 3.0f);
        }
        p.attn_factor = 1.2f;
        all.push_back(p);
    }
    return all;
}

// A head turned by ggml, as the graph's nodes are made (layer_nodes::rope).
std::vector<float> turned_by_ggml(const rope_params & rope, int32_t position, const std::vector<float> & head) {
    ggml_context_ptr ctx(ggml_init({1 << 20, nullptr, /*no_alloc=*/false}));
    ggml_tensor * x = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, static_cast<int64_t>(head.size()), 1, 1);
    std::copy(head.begin(), head.end(), static_cast<float *>(x->data));
    ggml_tensor * at = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, 1);
    *static_cast<int32_t *>(at->data) = position;
    const std::vector<float> divisors = rope_divisors(rope);
    ggml_tensor * by = nullptr;
    if (!divisors.empty()) {
        by = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, static_cast<int64_t>(divisors.size()));
        std::copy(divisors.begin(), divisors.end(), static_cast<float *>(by->data));
    }
    const int type = rope.order == rope_order::neox ? GGML_ROPE_TYPE_NEOX : GGML_ROPE_TYPE_NORMAL;
    ggml_tensor * y = ggml_rope_ext(ctx.get(), x, at, by, static_cast<int>(rope.n_rot), type, 0, rope.base, 1.0f, 0.0f,
                                    rope_magnitude(rope), 0.0f, 0.0f);
    ggml_cgraph * graph = ggml_new_graph(ctx.get());
    ggml_build_forward_expand(graph, y);
    ggml_graph_compute_with_ctx(ctx.get(), graph, 1);
    const auto * out = static_cast<const float *>(y->data);
    return {out, out + head.size()};
}

std::vector<float> turned(const rope_params & rope, int64_t position, std::vector<float> head) {
    std::vector<rope_angle> angles(static_cast<size_t>(rope.n_rot / 2));
    rope_angles(rope, position, angles);
    rope_turn(rope, angles, head);
    return head;
}

std::vector<float> random_head() {
    std::mt19937 rng(5);
    std::normal_distribution<float> normal;
    std::vector<float> head(64);
    for (float & x : head) {
        x = normal(rng);
    }
    return head;
}

double largest_difference(const std::vector<float> & a, const std::vector<float> & b) {
    double worst = 0.0;
    for (size_t i = 0; i < a.size(); ++i) {
        worst = std::max(worst, std::fabs(static_cast<double>(a[i]) - b[i]));
    }
    return worst;
}

rope_params changed(rope_params rope, const rope_override & by) {
    by.apply(rope);
    return rope;
}

}  // namespace

TEST(the_graphs_nodes_turn_by_these_angles) {
    const std::vector<float> head = random_head();
    for (const rope_params & rope : all_ropes()) {
        for (const int32_t position : {0, 1, 17, 511, 5000}) {
            IN("order=", static_cast<int>(rope.order), " scaling=", static_cast<int>(rope.scaling), " at=", position);
            // A float32 angle has an error that grows with the position.
            const double allowed = float_error * (1.0 + position / 100.0);
            CHECK(largest_difference(turned_by_ggml(rope, position, head), turned(rope, position, head)) < allowed);
        }
    }
}

TEST(turning_back_undoes_a_turn) {
    const std::vector<float> head = random_head();
    for (const rope_params & rope : all_ropes()) {
        const float m = rope_magnitude(rope);
        std::vector<float> back = turned(rope, -700, turned(rope, 700, head));
        for (size_t i = 0; i < static_cast<size_t>(rope.n_rot); ++i) {
            back[i] /= m * m;
        }
        CHECK(largest_difference(back, head) < 1e-5);
    }
}

TEST(yarn_keeps_short_waves_and_stretches_long_ones) {
    rope_params rope = usual(rope_order::neox);
    rope.scaling = rope_scaling::yarn;
    rope.factor = 4.0f;
    const std::vector<float> d = rope_divisors(rope);
    CHECK_EQ(d.front(), 1.0f);
    CHECK_EQ(d.back(), 4.0f);
    CHECK(std::is_sorted(d.begin(), d.end()));
    CHECK(std::fabs(rope_magnitude(rope) - (1.0 + 0.1 * std::log(4.0))) < 1e-6);
    rope.factor = 1.0f;
    CHECK(rope_divisors(rope).empty() && rope_magnitude(rope) == 1.0f);
}

TEST(changes_take_the_place_of_what_the_file_says) {
    rope_params file = usual(rope_order::normal);
    file.divisors.assign(32, 2.0f);
    file.attn_factor = 1.5f;
    CHECK(changed(file, {}) == file);
    const rope_params none = changed(file, {.scaling = "none"});
    CHECK(rope_divisors(none).empty() && rope_magnitude(none) == 1.0f);
    const rope_params linear = changed(usual(rope_order::normal), {.scale = 4.0});
    CHECK(linear.scaling == rope_scaling::linear && rope_divisors(linear) == std::vector<float>(32, 4.0f));
    const rope_params yarn = changed(file, {.scaling = "yarn", .scale = 4.0, .base = 5e5, .yarn_orig_ctx = 128});
    CHECK(yarn.scaling == rope_scaling::yarn && yarn.divisors.empty() && yarn.base == 5e5f && yarn.n_ctx_orig == 128);
    CHECK(rope_divisors(changed(yarn, {.yarn_orig_ctx = 4096})) != rope_divisors(yarn));
    CHECK_EQ(changed(yarn, {.scale = 16.0}).scaling == rope_scaling::yarn, true);
}

TEST(changes_that_mean_nothing_are_refused) {
    const rope_params plain = usual(rope_order::normal);
    rope_params divided = plain;
    divided.divisors.assign(32, 2.0f);
    constexpr double nan = std::numeric_limits<double>::quiet_NaN();
    CHECK_ERROR(changed(plain, {.scaling = "longrope"}), "rope_scaling: 'longrope' is not one of");
    CHECK_ERROR(changed(plain, {.scaling = "yarn"}), "needs rope_scale");
    CHECK_ERROR(changed(plain, {.scaling = "none", .scale = 2.0}), "rope_scale: there is nothing to scale");
    CHECK_ERROR(changed(plain, {.scaling = "linear", .scale = 2.0, .yarn_orig_ctx = 9}), "yarn_orig_ctx: only");
    CHECK_ERROR(changed(plain, {.yarn_orig_ctx = 9}), "yarn_orig_ctx: ");
    CHECK_ERROR(changed(divided, {.scale = 2.0}), "its own factor");
    for (const double bad : {0.0, -1.0, 0.5, nan, 1e9}) {
        CHECK_ERROR(changed(plain, {.scale = bad}), "rope_scale: ");
    }
    for (const double bad : {0.0, -1.0, 1.0, nan, 1e39}) {
        CHECK_ERROR(changed(plain, {.base = bad}), "rope_base: ");
    }
    CHECK_ERROR(changed(plain, {.scaling = "yarn", .scale = 2.0, .yarn_orig_ctx = 0}), "yarn_orig_ctx: 0");
}

TEST_MAIN
