#include "policy/kv_policies.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "policy/kv_options.h"

namespace livekv {

namespace {

constexpr std::array<std::string_view, 12> of_streams = {
    "ema_decay",         "key_bits_normal",    "value_bits_normal",          "key_bits_sink_outlier",
    "stream_range",      "pre_rope",           "value_bits_sink_outlier",    "outlier_threshold_abs",
    "outlier_detection", "value_quant_groups", "outlier_threshold_relative", "stat_reset"};
constexpr std::array<std::string_view, 3> of_kivi = {"kv_bits", "residual", "measure_error"};
constexpr std::array<std::string_view, 4> of_both = {"chunk_size", "sink_tokens", "measure_error", "preset"};

}  // namespace

bool kv_policy::reads(const std::string & option) const {
    const bool own = std::ranges::find(of_streams, option) != of_streams.end();
    if (is_kivi) {
        return std::ranges::find(of_kivi, option) != of_kivi.end();
    }
    if (option == "residual") {
        return false;
    }
    if (streams) {
        return own || std::ranges::find(of_both, option) != of_both.end();
    }
    return compresses ? !own : option == "chunk_size";
}

bool kv_policy::has_preset(const std::string & preset) const {
    return reads("preset") && (!streams || preset == "default" || preset == "reference");
}

const std::vector<kv_policy> & kv_policies() {
    static const std::vector<kv_policy> all = {
        {"livekv", true},
        {"kvstream", true, "", false, true},
        {"kivi", true, "", false, false, true},
        {"f16", false, "f16"},
        {"q8_0", false, "q8_0"},
        {"q4_0", false, "q4_0"},
        {"q8_0_rot", false, "q8_0", true},
        {"q4_0_rot", false, "q4_0", true},
    };
    return all;
}

std::vector<std::string> kv_policy_names() {
    std::vector<std::string> names;
    for (const kv_policy & policy : kv_policies()) {
        names.emplace_back(policy.name);
    }
    return names;
}

const kv_policy & find_kv_policy(const std::string & name) {
    for (const kv_policy & policy : kv_policies()) {
        if (name == policy.name) {
            return policy;
        }
    }
    fail("unknown cache policy '", name, "'");
}

void require_read(const std::string & policy, const std::string & option) {
    if (!find_kv_policy(policy).reads(option)) {
        throw kv_option_error(option,
                              "the cache " + policy + " does not read it, " + policies_that_read(option) +
                                  (policies_that_read(option).find(',') == std::string::npos ? " does" : " do"));
    }
}

std::string policies_that_read(const std::string & option) {
    std::string names;
    for (const kv_policy & policy : kv_policies()) {
        if (policy.reads(option)) {
            names += (names.empty() ? "" : ", ") + std::string(policy.name);
        }
    }
    return names;
}

std::string compressing_policies() {
    std::vector<std::string> all;
    for (const kv_policy & policy : kv_policies()) {
        if (policy.compresses) {
            all.emplace_back(policy.name);
        }
    }
    std::string names = all.front();
    for (size_t i = 1; i < all.size(); ++i) {
        names += (i + 1 < all.size() ? ", " : " and ") + all[i];
    }
    return names;
}

}  // namespace livekv
