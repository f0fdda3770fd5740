#include "cli/report.h"

#include <cinttypes>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/or_null.h"
#include "cli/progress.h"
#include "cli/tool.h"
#include "session/sampling_fields.h"

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

// part of whole, none when there is no whole.
std::optional<double> share_of(double part, double whole) {
    return whole > 0.0 ? std::optional(part / whole) : std::nullopt;
}

std::string speed_text(const std::optional<double> & tps) {
    return tps ? format(", %.1f tokens/s", *tps) : "";
}

// The cache in numbers.
nlohmann::ordered_json kv_json(const session & s, const generate_result & r) {
    const kv_report report = s.cache().report();
    const kv_report::parts & b = report.bytes;
    nlohmann::ordered_json j;
    j["bits_per_value"] = or_null(s.kv_bits_per_value());
    const auto ratio = share_of(static_cast<double>(b.total()), static_cast<double>(kv_f16_bytes(s)));
    j["compression_ratio"] = or_null(ratio);
    j["memory_savings"] = ratio ? or_null(1.0 - *ratio) : nullptr;
    visit_numbers(b, [&](const char * name, size_t bytes) { j["bytes"][name] = bytes; });
    j["workspace_bytes"] = report.workspace;
    const auto share = [&](int64_t n) {
        return or_null(share_of(static_cast<double>(n), static_cast<double>(report.n_sealed)));
    };
    j["values_given_back"] = report.n_given_back;
    j["outlier_fraction"] = share(report.n_outliers);
    j["saturated_fraction"] = nullptr;
    j["snr_db"] = nullptr;
    if (report.has_error) {
        j["saturated_fraction"] = share(report.n_saturated);
        nlohmann::ordered_json k = nlohmann::ordered_json::array();
        nlohmann::ordered_json v = nlohmann::ordered_json::array();
        for (const kv_report::layer_error & layer : report.layers) {
            k.push_back(or_null(layer.k_snr_db));
            v.push_back(or_null(layer.v_snr_db));
        }
        j["snr_db"] = {{"k", k}, {"v", v}};
    }
    visit_numbers(std::span(report.streams), [&](const char * name, double x) { j["stream"][name] = x; });
    for (const kv_stream_layer & layer : report.streams) {
        nlohmann::ordered_json one;
        visit_numbers(layer, [&](const char * name, double x) { one[name] = x; });
        j["stream"]["layers"].push_back(one);
    }
    visit_numbers(std::span(report.guided), [&](const char * name, double x) { j["guided"][name] = x; });
    for (const kv_guided_layer & layer : report.guided) {
        nlohmann::ordered_json one;
        visit_numbers(layer, [&](const char * name, double x) { one[name] = x; });
        j["guided"]["layers"].push_back(one);
    }
    if (report.guided_peak_bytes > 0) {
        j["guided"]["peak_bytes"] = report.guided_peak_bytes;
    }
    if (report.fastkv) {
        visit_numbers(*report.fastkv, [&](const char * name, double x) { j["fastkv"][name] = x; });
    }
    if (report.finch) {
        visit_numbers(*report.finch, [&](const char * name, double x) { j["finch"][name] = x; });
    }
    j["seal_time_share"] = or_null(share_of(r.seal_s, r.prefill_s));
    return j;
}

}  // namespace

std::string summary_text(const session & s, const generate_result & r) {
    const double kv_bytes = static_cast<double>(s.cache().bytes());
    const double f16_bytes = static_cast<double>(kv_f16_bytes(s));
    std::string text = format("prompt    %" PRId64 " tokens in %.2f s%s", r.n_prompt, r.prefill_s,
                              speed_text(r.prefill_tps()).c_str());
    text += r.n_reused > 0 ? format("; %" PRId64 " of them were known\n", r.n_reused) : "\n";
    text += format("generated %" PRId64 " tokens%s", r.n_generated, speed_text(r.decode_tps()).c_str());
    text += r.ttft_s ? format(", the first after %.2f s", *r.ttft_s) : "";
    text += r.n_drafted > 0 ? format(", %" PRId64 " of %" PRId64 " drafted", r.n_accepted, r.n_drafted) : "";
    text += r.n_forgotten > 0 ? format("; %" PRId64 " of the oldest left the context", r.n_forgotten) : "";
    text += format("; stopped: %s\n", stop_reason_name(r.reason));
    text += format("cache     %s: %s for %" PRId64 " tokens", s.params().kv.policy.c_str(), mebibytes(kv_bytes).c_str(),
                   s.n_tokens());
    const auto bits = s.kv_bits_per_value();
    if (bits && s.n_tokens() >= s.params().kv.chunk_tokens()) {  // before, what is set aside says nothing of the policy
        text += format(", f16 %s, saved %.1f %%, %.2f bits a value", mebibytes(f16_bytes).c_str(),
                       100.0 * (1.0 - kv_bytes / f16_bytes), *bits);
    }
    text += "\n";
    text += format("memory    peak %s\n", mebibytes(static_cast<double>(peak_rss_bytes())).c_str());
    return text;
}

std::string stats_json(const session & s, const generate_params & params, const generate_result & r) {
    const model & m = s.get_model();
    nlohmann::ordered_json j;
    j["model"] = {{"path", m.file.path()},        {"name", m.hp.name},        {"n_params", m.tensors.n_params},
                  {"bytes", m.tensors.bytes},     {"n_layer", m.hp.n_layer},  {"n_embd", m.hp.n_embd},
                  {"n_ff", m.hp.n_ff(0)},         {"n_head", m.hp.n_head(0)}, {"n_head_kv", m.hp.n_head_kv(0)},
                  {"head_dim", m.hp.head_dim(0)}, {"n_vocab", m.hp.n_vocab},  {"n_ctx_train", m.hp.n_ctx_train}};
    j["options"] = {{"kv", s.params().kv.policy},
                    {"chunk_size", s.params().kv.chunk_tokens()},
                    {"n_ctx", s.n_ctx()},
                    {"n_threads", s.params().n_threads},
                    {"n_gpu_layers", m.tensors.n_gpu_layers},
                    {"n_predict", params.n_predict},
                    {"n_lookup", params.n_lookup},
                    {"n_keep", params.n_keep},
                    {"ignore_eos", params.ignore_eos}};
    for_each_sampling_option([&](const char * name, auto member, const auto &, const char * flag, const char *) {
        if (flag) {
            j["options"][name] = params.sampling.*member;
        }
    });
    j["options"]["seed"] = params.sampling.seed;
    j["n_prompt"] = r.n_prompt;
    j["n_reused"] = r.n_reused;
    j["n_forgotten"] = r.n_forgotten;
    j["n_generated"] = r.n_generated;
    j["n_drafted"] = r.n_drafted;
    j["n_accepted"] = r.n_accepted;
    j["stop_reason"] = stop_reason_name(r.reason);
    j["ttft_s"] = or_null(r.ttft_s);
    j["prefill_tps"] = or_null(r.prefill_tps());
    j["decode_tps"] = or_null(r.decode_tps());
    j["kv_bytes"] = s.cache().bytes();
    j["kv_bits_per_value"] = or_null(s.kv_bits_per_value());
    j["kv_f16_bytes"] = kv_f16_bytes(s);
    j["kv"] = kv_json(s, r);
    j["store"] = nullptr;
    if (const auto & store = s.get_engine()->store()) {
        j["store"] = {{"path", store->path()}, {"problem", store->problem()}};
        visit_numbers(store->counts(), [&](const char * name, int64_t n) { j["store"][name] = n; });
    }
    j["peak_rss_bytes"] = peak_rss_bytes();
    j["logits_hash"] = nullptr;
    if (r.logits_hash) {
        j["logits_hash"] = format("%016" PRIx64, *r.logits_hash);
    }
    // A model's name is bytes from a file: what is not UTF-8 in it is replaced, never an error.
    return j.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace livekv
