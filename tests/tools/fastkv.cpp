// livekv-fastkv: the scalar reference of policy fastkv on one layer, for the golden vectors.
//
// stdin: one JSON line {"retain_rate": r, "tsp_rate": t, "pooling": "max" or "avg", "n_tokens": n, "n_head": H,
// "n_head_kv": K, "head_dim": D}, then q [H, min(n, 8), D] and k [K, n, D] as raw float32. stdout: a JSON object.

#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/tool.h"
#include "error.h"
#include "floats_in.h"
#include "kv/kv_fastkv.h"

namespace livekv {

namespace {

int run(int, char **) {
    std::string header;
    std::getline(std::cin, header);
    const nlohmann::json j = nlohmann::json::parse(header);
    using pooling = fastkv_method::pooling;
    const fastkv_method method = {j.at("retain_rate"), j.at("tsp_rate"),
                                  j.at("pooling") == "avg" ? pooling::avg : pooling::max};
    const int64_t n = j.at("n_tokens");
    const int64_t n_head = j.at("n_head");
    const int64_t n_head_kv = j.at("n_head_kv");
    const int64_t head_dim = j.at("head_dim");
    const std::vector<float> q = floats_in(n_head * std::min(n, fastkv_window) * head_dim);
    const std::vector<float> k = floats_in(n_head_kv * n * head_dim);
    const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    const fastkv_choice made = fastkv_choose(method, q, k, n_head, n_head_kv, head_dim, scale, /*is_later=*/false);
    std::cout << nlohmann::json{{"score", made.score},
                                {"tsp_score", made.tsp_score},
                                {"kept", made.kept},
                                {"going_on", made.going_on}}
                     .dump()
              << "\n";
    return 0;
}

}  // namespace

}  // namespace livekv

int main(int argc, char ** argv) {
    return livekv::run_tool("livekv-fastkv", livekv::run, argc, argv);
}
