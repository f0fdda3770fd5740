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
constexpr std::array<std::string_view, 18> of_guides = {
    "alpha",       "beta",         "gamma",       "theta_h",      "theta_m",    "level_bits",
    "early_ratio", "middle_ratio", "later_ratio", "guide_tokens", "propagate",  "budget",
    "protect",     "keep_last",    "key_axis",    "min_class",    "guide_norm", "guide"};
constexpr std::array<std::string_view, 3> of_kivi = {"kv_bits", "residual", "measure_error"};
constexpr std::array<std::string_view, 5> of_fastkv = {"retain_rate", "tsp_rate", "tsp_layer", "pooling", "store"};
constexpr std::array<std::string_view, 2> of_finch = {"target_tokens", "normalize"};
constexpr std::array<std::string_view, 4> of_kvquant = {"chunk_size", "kv_bits", "calibration", "measure_error"};
constexpr std::array<std::string_view, 4> of_chunks = {"chunk_size", "sink_tokens", "measure_error", "preset"};

template <size_t N>
bool is_among(const std::array<std::string_view, N> & names, const std::string & name) {
    return std::ranges::find(names, name) != names.end();
}

// "a, b and c": the policies that is_meant holds for.
template <typename F>
std::string in_prose(F && is_meant) {
    std::vector<std::string> all;
    for (const kv_policy & policy : kv_policies()) {
        if (is_meant(policy)) {
            all.emplace_back(policy.name);
        }
    }
    std::string names = all.front();
    for (size_t i = 1; i < all.size(); ++i) {
        names += (i + 1 < all.size() ? ", " : " and ") + all[i];
    }
    return names;
}

}  // namespace

bool kv_policy::reads(const std::string & option) const {
    if (!compresses) {
        return option == "chunk_size";
    }
    if (is_kivi) {
        return is_among(of_kivi, option);
    }
    if (is_fastkv) {
        return option == "chunk_size" || option == "kv_bits" || is_among(of_fastkv, option);
    }
    if (is_finch) {
        return option == "chunk_size" || is_among(of_finch, option);
    }
    if (is_kvquant) {
        return is_among(of_kvquant, option);
    }
    if (streams || guides) {
        return is_among(of_chunks, option) || (streams ? is_among(of_streams, option) : is_among(of_guides, option));
    }
    return !is_among(of_streams, option) && !is_among(of_guides, option) && !is_among(of_fastkv, option) &&
           !is_among(of_finch, option) && option != "residual" && option != "calibration";
}

bool kv_policy::has_preset(const std::string & preset) const {
    return reads("preset") && (!(streams || guides) || preset == "default" || preset == "reference");
}

const std::vector<kv_policy> & kv_policies() {
    static const std::vector<kv_policy> all = {
        {.name = "livekv", .compresses = true},
        {.name = "kvstream", .compresses = true, .streams = true},
        {.name = "guided", .compresses = true, .guides = true},
        {.name = "kivi", .compresses = true, .is_kivi = true},
        {.name = "fastkv", .compresses = true, .is_fastkv = true},
        {.name = "finch", .compresses = true, .is_finch = true},
        {.name = "kvquant", .compresses = true, .is_kvquant = true},
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
    return in_prose([](const kv_policy & policy) { return policy.compresses; });
}

std::string sharing_policies() {
    return in_prose([](const kv_policy & policy) { return policy.shares(); });
}

std::string saving_policies() {
    return in_prose([](const kv_policy & policy) { return policy.saves(); });
}

}  // namespace livekv
