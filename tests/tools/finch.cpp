// livekv-finch: the scalar reference of policy finch on one layer, for the golden vectors.
//
// stdin: one JSON line {"target_tokens": t, "normalize": bool, "n_context": n, "n_question": n_q, "chunk_size": m,
// "n_head": H, "n_head_kv": K, "head_dim": D, "rope_base": b}, then for each chunk q [H, n_q, D], k of the question
// [K, n_q, D], k and v [K, up to m, D] as raw float32, queries and keys before RoPE. stdout: a JSON object.

#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/tool.h"
#include "error.h"
#include "kv/finch_layer.h"

namespace livekv {

namespace {

std::vector<float> read(int64_t n) {
    std::vector<float> x(static_cast<size_t>(n));
    std::cin.read(reinterpret_cast<char *>(x.data()), static_cast<std::streamsize>(x.size() * sizeof(float)));
    if (!std::cin) {
        fail("the input ends early");
    }
    return x;
}

int run(int, char **) {
    std::string header;
    std::getline(std::cin, header);
    const nlohmann::json j = nlohmann::json::parse(header);
    const finch_method method = {j.at("target_tokens"), j.at("normalize")};
    const finch_layer::shape shape = {j.at("n_head"), j.at("n_head_kv"), j.at("head_dim")};
    const int64_t n_context = j.at("n_context");
    const int64_t n_question = j.at("n_question");
    const int64_t chunk_size = j.at("chunk_size");
    rope_params rope;
    rope.n_rot = shape.head_dim;
    rope.base = j.at("rope_base");
    finch_layer layer(method, shape, rope, n_context, n_question);
    nlohmann::json out = {{"factor", layer.factor()}};
    for (int64_t done = 0; done < n_context; done += chunk_size) {
        const int64_t n = std::min(chunk_size, n_context - done);
        const std::vector<float> q = read(shape.n_head * n_question * shape.head_dim);
        const std::vector<float> k_question = read(shape.n_head_kv * n_question * shape.head_dim);
        const std::vector<float> k = read(shape.n_head_kv * n * shape.head_dim);
        const std::vector<float> v = read(shape.n_head_kv * n * shape.head_dim);
        const finch_choice made = layer.add({q, k_question, k, v});
        out["steps"].push_back({{"columns", made.columns},
                                {"score", made.score},
                                {"kept_columns", made.kept_columns},
                                {"kept_tokens", made.kept_tokens}});
    }
    out["k_final"] = layer.keys();
    out["v_final"] = layer.values();
    std::cout << out.dump() << "\n";
    return 0;
}

}  // namespace

}  // namespace livekv

int main(int argc, char ** argv) {
    return livekv::run_tool("livekv-finch", livekv::run, argc, argv);
}
