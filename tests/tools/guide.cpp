// livekv-guide: the scalar reference of policy guided on raw chunks, for the golden vectors.
//
// stdin: one JSON line {"method": {...}, "layer": l, "n_layer": L, "n_prompt": T, "n_head": H, "n_head_kv": K,
// "head_dim": D, "chunks": [{"positions": [...], "n": tokens before earlier layers dropped any}, ...]}, then for each
// chunk q [H, n, D], k and v [K, n, D] as raw float32. stdout: a JSON object a chunk, one a line.
//
// With "engine": true, of a guide at the end, what the engine makes of the same rows, the first chunk's length being
// its chunk size: "bits" of each token as they are stored, of sinks 16, and what blocks stand for, [K, n, D].

#include <iostream>
#include <nlohmann/json.hpp>

#include "../unit/driven_prompt.h"
#include "cli/tool.h"
#include "error.h"
#include "floats_in.h"
#include "kv/guided_layer.h"
#include "kv/kv_pack.h"

namespace livekv {

namespace {

guided_method method_of(const nlohmann::json & j) {
    using g = guided_method;
    g m;
    m.alpha = j.at("alpha");
    m.beta = j.at("beta");
    m.gamma = j.at("gamma");
    m.theta_h = j.at("theta_h");
    m.theta_m = j.at("theta_m");
    m.bits = {j.at("high_bits"), j.at("medium_bits"), j.at("low_bits")};
    m.shares = {j.at("early_layer_ratio"), j.at("middle_layer_ratio"), j.at("later_layer_ratio")};
    m.guide = j.at("guide") == "last" ? g::guide_at::last : g::guide_at::first;
    m.guide_tokens = j.at("guide_tokens");
    m.propagates = j.at("propagate") == "off"     ? g::propagation::off
                   : j.at("propagate") == "cache" ? g::propagation::cache
                                                  : g::propagation::layers;
    m.budget = j.at("budget") == "bits" ? g::budget_of::bits : g::budget_of::tokens;
    m.protects = j.at("protect");
    m.sink_tokens = j.at("sink_tokens");
    m.keep_last = j.at("keep_last");
    m.keys = j.at("key_axis") == "token" ? g::key_axis::token : g::key_axis::channel;
    m.min_class = j.at("min_class");
    return m;
}

void add_side(nlohmann::json & out, const guided_side & side, const std::string & name) {
    out[name + "_codes"] = side.codes;
    out[name + "_reconstruction"] = side.reconstruction;
    if (!side.low.empty()) {
        out[name + "_low"] = side.low;
        out[name + "_scale"] = side.scale;
    }
    for (const auto & [bits, low] : side.level_low) {
        out[name + "_low_" + std::to_string(bits)] = low;
        out[name + "_scale_" + std::to_string(bits)] = side.level_scale.at(bits);
    }
}

// [heads, n, D] to what passes have, [n, heads, D], behind what is there.
void add_rows(const std::vector<float> & by_head, int64_t heads, int64_t d, std::vector<float> & to) {
    const int64_t n = static_cast<int64_t>(by_head.size()) / (heads * d);
    for (int64_t t = 0; t < n; ++t) {
        for (int64_t h = 0; h < heads; ++h) {
            const auto from = by_head.begin() + (h * n + t) * d;
            to.insert(to.end(), from, from + d);
        }
    }
}

std::vector<float> stored(const kv_chunk_side & side, int64_t n_head_kv) {
    std::vector<float> all;
    for (int64_t h = 0; h < n_head_kv; ++h) {
        const std::vector<float> x = unpack_block(
            side.bytes->data() + side.bytes->bytes() / static_cast<size_t>(n_head_kv) * static_cast<size_t>(h));
        all.insert(all.end(), x.begin(), x.end());
    }
    return all;
}

void run_engine(const nlohmann::json & request, const guided_method & method, const guided_layer::shape & shape) {
    std::vector<float> q;
    std::vector<float> k;
    std::vector<float> v;
    int64_t n_prompt = 0;
    for (const nlohmann::json & chunk : request.at("chunks")) {
        const int64_t n = chunk.at("n");
        n_prompt += n;
        for (const auto & [heads, to] : {std::pair(shape.n_head, &q), {shape.n_head_kv, &k}, {shape.n_head_kv, &v}}) {
            add_rows(floats_in(heads * n * shape.head_dim), heads, shape.head_dim, *to);
        }
    }
    std::vector<chunk_plan> plans(request.at("n_layer").get<size_t>());
    for (size_t il = 0; il < plans.size(); ++il) {
        chunk_plan & plan = plans[il];
        plan.n_head_kv = shape.n_head_kv;
        plan.head_dim = shape.head_dim;
        plan.chunk_size = request.at("chunks").at(0).at("n");
        plan.method.sink_tokens = static_cast<int32_t>(method.n_exact());
        plan.guided = guided_plan{method, static_cast<int64_t>(il), static_cast<int64_t>(plans.size())};
    }
    guided_layers::driven_prompt prompt(plans, shape.n_head, q, k, v, best_cpu_kernels());
    prompt.read(n_prompt, plans.front().chunk_size);
    for (const kv_chunk & c : prompt.layers[request.at("layer").get<size_t>()].chunks) {
        std::vector<uint8_t> bits = guided_layers::stored_bits(c);
        std::fill_n(bits.begin(), c.n_sinks, uint8_t{16});
        const nlohmann::json out = {{"bits", bits},
                                    {"k_reconstruction", stored(c.k, shape.n_head_kv)},
                                    {"v_reconstruction", stored(c.v, shape.n_head_kv)}};
        std::cout << out.dump() << "\n";
    }
}

int run(int, char **) {
    std::string header;
    std::getline(std::cin, header);
    const nlohmann::json request = nlohmann::json::parse(header);
    const guided_method method = method_of(request.at("method"));
    const guided_place place =
        guided_place_of(method, request.at("layer"), request.at("n_layer"), request.at("n_prompt"));
    const guided_layer::shape shape = {request.at("n_head"), request.at("n_head_kv"), request.at("head_dim")};
    if (request.contains("engine")) {
        run_engine(request, method, shape);
        return 0;
    }
    guided_layer layer(method, place, shape);
    for (const nlohmann::json & chunk : request.at("chunks")) {
        const std::vector<int64_t> positions = chunk.at("positions");
        const int64_t n = static_cast<int64_t>(positions.size()) * shape.head_dim;
        const std::vector<float> q = floats_in(shape.n_head * n);
        const std::vector<float> k = floats_in(shape.n_head_kv * n);
        const std::vector<float> v = floats_in(shape.n_head_kv * n);
        for (const guided_chunk & c : layer.add({q, k, v, positions}, chunk.at("n"))) {
            nlohmann::json out = {{"positions", c.positions},
                                  {"attention", c.attention},
                                  {"attention_low", c.range.low},
                                  {"attention_high", c.range.high},
                                  {"attention_hat", c.scores.attention_hat},
                                  {"layer_weight", place.layer_weight()},
                                  {"position_bias", c.scores.position_bias},
                                  {"relevance", c.scores.relevance},
                                  {"score", c.scores.score},
                                  {"label", c.scores.label},
                                  {"protected", c.scores.is_protected},
                                  {"kept", c.kept},
                                  {"bits_assigned", c.bits_assigned},
                                  {"bits", c.bits}};
            add_side(out, c.k, "k");
            add_side(out, c.v, "v");
            std::cout << out.dump() << "\n";
        }
    }
    return 0;
}

}  // namespace

}  // namespace livekv

int main(int argc, char ** argv) {
    return livekv::run_tool("livekv-guide", livekv::run, argc, argv);
}
