// livekv-seal: the reference statistics and quantizers on raw chunks, for the golden vectors.
//
// stdin: one JSON line {"method": {...}, "keys": bool, "n_head_kv": H, "head_dim": D, "lengths": [n0, n1, ...]}, then
// the chunks one after the other as raw float32 [H, n, D]. A method whose "policy" is kvstream or kivi is that, else
// livekv's.
// stdout: a JSON object a chunk and kv head, one a line, with every field of sealed_chunk and the statistics, or of
// stream_units and streamed_chunk, or of kivi_tokens.

#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/tool.h"
#include "error.h"
#include "floats_in.h"
#include "kv/kv_kivi.h"
#include "kv/kv_quant.h"
#include "kv/kv_stream.h"

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

stream_method stream_method_of(const nlohmann::json & j, bool keys) {
    stream_method m;
    m.bits = j.at(keys ? "key_bits_normal" : "value_bits_normal");
    m.high_bits = j.at(keys ? "key_bits_sink_outlier" : "value_bits_sink_outlier");
    m.groups = keys ? 0 : j.at("value_quant_groups").get<int32_t>();
    m.sink_tokens = j.at("attention_sink_size");
    m.decay = j.at("ema_decay");
    m.relative = j.at("outlier_threshold_relative");
    if (!j.at("outlier_threshold_abs").is_null()) {
        m.absolute = j.at("outlier_threshold_abs");
    }
    m.detects = j.at("outlier_detection_enabled");
    m.stat_reset = j.at("periodic_stat_reset");
    const std::string range = j.at("scale_range");
    m.scale_range = range == "cover" ? stream_method::range::cover
                    : range == "ema" ? stream_method::range::ema
                                     : stream_method::range::own;
    return m;
}

void seal_stream(const nlohmann::json & request, const stream_method & method) {
    const int64_t head_dim = request.at("head_dim");
    std::vector<std::vector<float>> mu(request.at("n_head_kv").get<size_t>());
    int64_t position = 0;
    int64_t index = 0;
    for (const int64_t n : request.at("lengths")) {
        for (std::vector<float> & before : mu) {
            const std::vector<float> chunk = floats_in(n * head_dim);
            const stream_units units = stream_units_of(method, chunk, head_dim, before, index);
            const streamed_chunk sealed =
                stream_chunk(method, units, chunk, head_dim, stream_high_tokens(method, position, n));
            std::cout << nlohmann::json{{"chunk_absmax", units.absmax},
                                        {"absmax", units.mu},
                                        {"outlier", units.flagged},
                                        {"scale_normal", units.scale},
                                        {"scale_high", units.high_scale},
                                        {"codes", sealed.codes},
                                        {"bits", sealed.bits},
                                        {"reconstruction", sealed.reconstruction}}
                             .dump()
                      << "\n";
            before = units.mu;
        }
        position += n;
        ++index;
    }
}

void seal_kivi(const nlohmann::json & request) {
    const int64_t head_dim = request.at("head_dim");
    const kv_side side = request.at("keys").get<bool>() ? kv_side::key : kv_side::value;
    for (const int64_t n : request.at("lengths")) {
        for (int64_t h = 0; h < request.at("n_head_kv").get<int64_t>(); ++h) {
            const kivi_tokens sealed =
                kivi_quantize(side, request.at("method").at("bits"), floats_in(n * head_dim), head_dim);
            std::cout << nlohmann::json{{"codes", sealed.codes},
                                        {"scale", sealed.scale},
                                        {"low", sealed.low},
                                        {"reconstruction", sealed.reconstruction}}
                             .dump()
                      << "\n";
        }
    }
}

int run(int, char **) {
    std::string header;
    std::getline(std::cin, header);
    const nlohmann::json request = nlohmann::json::parse(header);
    const bool keys = request.at("keys");
    const std::string policy = request.at("method").value("policy", "livekv");
    if (policy == "kvstream") {
        seal_stream(request, stream_method_of(request.at("method"), keys));
        return 0;
    }
    if (policy == "kivi") {
        seal_kivi(request);
        return 0;
    }
    const kv_method method = method_of(request.at("method"));
    const int64_t n_head_kv = request.at("n_head_kv");
    const int64_t head_dim = request.at("head_dim");
    std::vector<key_statistics> statistics(static_cast<size_t>(n_head_kv), key_statistics(method, head_dim));
    bool first_chunk = true;
    for (const int64_t n : request.at("lengths")) {
        for (int64_t h = 0; h < n_head_kv; ++h) {
            const std::vector<float> chunk = floats_in(n * head_dim);
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
