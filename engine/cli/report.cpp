#include "cli/report.h"

#include <cinttypes>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/progress.h"
#include "cli/tool.h"

namespace livekv {

namespace {

int64_t kv_f16_bytes(const session & s) {
    return s.get_model().hp.kv_f16_bytes_per_token() * s.n_tokens();
}

template <typename... Args>
std::string format(const char * pattern, Args... args) {
    char line[256];
    std::snprintf(line, sizeof(line), pattern, args...);
    return line;
}

// The cache in numbers; what was not measured is null.
nlohmann::ordered_json kv_json(const session & s, const generate_result & r) {
    const kv_report report = s.cache().report();
    const kv_report::parts & b = report.bytes;
    nlohmann::ordered_json j;
    j["bits_per_value"] = s.kv_bits_per_value();
    const double f16_bytes = static_cast<double>(kv_f16_bytes(s));
    j["compression_ratio"] = f16_bytes > 0.0 ? static_cast<double>(b.total()) / f16_bytes : 0.0;
    j["memory_savings"] = f16_bytes > 0.0 ? 1.0 - static_cast<double>(b.total()) / f16_bytes : 0.0;
    j["bytes"] = {{"codes", b.codes},     {"scales", b.scales}, {"outliers", b.outliers}, {"sinks", b.sinks},
                  {"warm_up", b.warm_up}, {"bypass", b.bypass}, {"tail", b.tail},         {"statistics", b.statistics},
                  {"padding", b.padding}, {"total", b.total()}};
    j["workspace_bytes"] = report.workspace;
    const auto share = [&](int64_t n) {
        return report.n_sealed > 0 ? static_cast<double>(n) / static_cast<double>(report.n_sealed) : 0.0;
    };
    j["outlier_fraction"] = share(report.n_outliers);
    j["saturated_fraction"] = nullptr;
    j["snr_db"] = nullptr;
    if (report.has_error) {
        j["saturated_fraction"] = share(report.n_saturated);
        nlohmann::ordered_json k = nlohmann::ordered_json::array();
        nlohmann::ordered_json v = nlohmann::ordered_json::array();
        for (const kv_report::layer_error & layer : report.layers) {
            k.push_back(layer.k_snr_db);
            v.push_back(layer.v_snr_db);
        }
        j["snr_db"] = {{"k", k}, {"v", v}};
    }
    j["seal_time_share"] = r.prefill_s > 0.0 ? r.seal_s / r.prefill_s : 0.0;
    return j;
}

}  // namespace

std::string summary_text(const session & s, const generate_result & r) {
    const double kv_bytes = static_cast<double>(s.cache().bytes());
    const double f16_bytes = static_cast<double>(kv_f16_bytes(s));
    std::string text =
        format("prompt    %" PRId64 " tokens in %.2f s, %.1f tokens/s\n", r.n_prompt, r.prefill_s, r.prefill_tps());
    text += format("generated %" PRId64 " tokens, %.1f tokens/s, the first after %.2f s; stopped: %s\n", r.n_generated,
                   r.decode_tps(), r.ttft_s, stop_reason_name(r.reason));
    text += format("cache     %s: %s for %" PRId64 " tokens", s.params().kv.policy.c_str(), mebibytes(kv_bytes).c_str(),
                   s.n_tokens());
    if (s.n_tokens() >= s.params().kv.chunk_size) {  // before that, what is set aside says nothing about the policy
        text += format(", f16 %s, saved %.1f %%, %.2f bits a value", mebibytes(f16_bytes).c_str(),
                       100.0 * (1.0 - kv_bytes / f16_bytes), s.kv_bits_per_value());
    }
    text += "\n";
    text += format("memory    peak %s\n", mebibytes(static_cast<double>(peak_rss_bytes())).c_str());
    return text;
}

std::string stats_json(const session & s, const generate_params & params, const generate_result & r) {
    const model & m = s.get_model();
    nlohmann::ordered_json j;
    j["model"] = {{"path", m.file.path()},     {"name", m.hp.name},       {"n_params", m.tensors.n_params},
                  {"bytes", m.tensors.bytes},  {"n_layer", m.hp.n_layer}, {"n_embd", m.hp.n_embd},
                  {"n_ff", m.hp.n_ff},         {"n_head", m.hp.n_head},   {"n_head_kv", m.hp.n_head_kv},
                  {"head_dim", m.hp.head_dim}, {"n_vocab", m.hp.n_vocab}, {"n_ctx_train", m.hp.n_ctx_train}};
    j["options"] = {{"kv", s.params().kv.policy},
                    {"chunk_size", s.params().kv.chunk_size},
                    {"n_ctx", s.n_ctx()},
                    {"n_threads", s.params().n_threads},
                    {"n_gpu_layers", m.tensors.n_gpu_layers},
                    {"n_predict", params.n_predict},
                    {"ignore_eos", params.ignore_eos},
                    {"temperature", params.sampling.temperature},
                    {"top_k", params.sampling.top_k},
                    {"top_p", params.sampling.top_p},
                    {"min_p", params.sampling.min_p},
                    {"repeat_penalty", params.sampling.repeat_penalty},
                    {"seed", params.sampling.seed}};
    j["n_prompt"] = r.n_prompt;
    j["n_generated"] = r.n_generated;
    j["stop_reason"] = stop_reason_name(r.reason);
    j["ttft_s"] = r.ttft_s;
    j["prefill_tps"] = r.prefill_tps();
    j["decode_tps"] = r.decode_tps();
    j["kv_bytes"] = s.cache().bytes();
    j["kv_bits_per_value"] = s.kv_bits_per_value();
    j["kv_f16_bytes"] = kv_f16_bytes(s);
    j["kv"] = kv_json(s, r);
    j["peak_rss_bytes"] = peak_rss_bytes();
    j["logits_hash"] = format("%016" PRIx64, r.logits_hash);
    // A model's name is bytes from a file: what is not UTF-8 in it is replaced, never an error.
    return j.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace livekv
