// livekv-seal: the reference statistics and quantizer on raw chunks, for the golden vectors.
//
// stdin: one JSON line {"method": {...}, "keys": bool, "n_head_kv": H, "head_dim": D, "lengths": [n0, n1, ...]}, then
// the chunks one after the other as raw float32 [H, n, D].
// stdout: a JSON object a chunk and kv head, one a line, with every field of sealed_chunk and the statistics.

#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/tool.h"
#include "error.h"
#include "kv/kv_quant.h"

namespace livekv {

namespace {

kv_method method_of(const nlohmann::json & j) {
    kv_method m;
    m.k_bits = m.v_bits = j.at("bits");
    m.ema_alpha = j.at("ema_alpha");
    m.clip_factor = j.at("clip_factor_n");
    m.outlier_ratio = j.at("use_outlier_isolation").get<bool>() ? j.at("outlier_ratio").get<double>() : 0.0;
    m.sink_tokens = m.outlier_ratio > 0.0 ? j.at("sink_tokens").get<int32_t>() : 0;  // sinks are outliers there
    if (j.at("stats_method") == "ema_minmax") {
        m.scale_method = kv_method::scale::ema_minmax;
    }
    return m;
}

int run(int, char **) {
    std::string header;
    std::getline(std::cin, header);
    const nlohmann::json request = nlohmann::json::parse(header);
    const kv_method method = method_of(request.at("method"));
    const int64_t n_head_kv = request.at("n_head_kv");
    const int64_t head_dim = request.at("head_dim");
    const bool keys = request.at("keys");
    std::vector<key_statistics> statistics(static_cast<size_t>(n_head_kv), key_statistics(method, head_dim));
    bool first_chunk = true;
    for (const int64_t n : request.at("lengths")) {
        for (int64_t h = 0; h < n_head_kv; ++h) {
            std::vector<float> chunk(static_cast<size_t>(n * head_dim));
            std::cin.read(reinterpret_cast<char *>(chunk.data()),
                          static_cast<std::streamsize>(chunk.size() * sizeof(float)));
            if (!std::cin) {
                fail("the input ends early");
            }
            const int64_t n_sinks = first_chunk ? std::min<int64_t>(method.sink_tokens, n) : 0;
            key_statistics & s = statistics[static_cast<size_t>(h)];
            if (keys) {
                observe_keys(method, s, chunk, n_sinks);
            }
            const sealed_chunk sealed =
                keys ? seal_keys(method, s, chunk, head_dim, n_sinks) : seal_values(method, chunk, head_dim, n_sinks);
            std::cout << nlohmann::json{{"codes", sealed.codes},
                                        {"scale", sealed.scale},
                                        {"zero", sealed.zero},
                                        {"outlier_index", sealed.outlier_index},
                                        {"outlier_value", sealed.outlier_value},
                                        {"high", s.high()},
                                        {"low", s.low()},
                                        {"reconstruction", reconstruct(sealed)}}
                             .dump()
                      << "\n";
        }
        first_chunk = false;
    }
    return 0;
}

}  // namespace

}  // namespace livekv

int main(int argc, char ** argv) {
    return livekv::run_tool("livekv-seal", livekv::run, argc, argv);
}
