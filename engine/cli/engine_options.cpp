#include "cli/engine_options.h"

#include <algorithm>

#include "default_threads.h"
#include "livekv.h"
#include "policy/kv_option_fields.h"
#include "policy/kv_option_table.h"
#include "rope/rope_option_fields.h"

namespace livekv {

namespace {

constexpr const char * dashes = "--";

// Throws usage_error for an option that was given though none of these policies reads it.
void refuse_unread(const option_table & table, const std::string & field, const std::vector<std::string> & policies) {
    const std::string flag = dashes + kv_option_name(field);
    const auto reads = [&](const std::string & name) { return find_kv_policy(name).reads(field); };
    if (std::ranges::find(table.given(), flag) == table.given().end() || std::ranges::any_of(policies, reads)) {
        return;
    }
    std::string at_work;
    for (const std::string & name : policies) {
        at_work += (at_work.empty() ? "" : ", ") + name;
    }
    throw usage_error(flag + " is an option of --kv " + policies_that_read(field) + ", not of " + at_work);
}

// What leaves an option without effect, as it stands; "" where nothing does.
std::string idle_by(const kv_options & o, const std::string & field) {
    const kv_policy & how = find_kv_policy(o.policy);
    const auto is_any_of = [&](const auto &... names) { return ((field == names) || ...); };
    if (how.guides && is_any_of("early_ratio", "middle_ratio", "later_ratio") &&
        o.propagate == guided_method::propagation::off) {
        return "propagate off";
    }
    if (how.guides && is_any_of("keep_last", "sink_tokens") && !o.protect) {
        return "protect off";
    }
    if (how.streams && is_any_of("outlier_threshold_relative", "outlier_threshold_abs") && !o.outlier_detection) {
        return "outlier-detection off";
    }
    return "";
}

// Throws usage_error for an option that was given though it changes none of these policies' caches.
void refuse_idle(const option_table & table, const kv_options & o, const std::string & field,
                 const std::vector<std::string> & policies) {
    const std::string flag = dashes + kv_option_name(field);
    if (std::ranges::find(table.given(), flag) == table.given().end()) {
        return;
    }
    std::string reason;  // of the last policy that reads it
    for (const std::string & name : policies) {
        if (find_kv_policy(name).reads(field)) {
            reason = idle_by(o.for_policy(name), field);
            if (reason.empty()) {
                return;
            }
        }
    }
    if (!reason.empty()) {
        throw usage_error(flag + " has no effect with " + dashes + reason);
    }
}

void declare_option(option_table & table, const char * flag, std::optional<std::string> & target,
                    const rope_words & may, const char * help) {
    table.choice(flag, target, may.allowed, help);
}
void declare_option(option_table & table, const char * flag, std::optional<double> & target,
                    const rope_range<double> & may, const char * help) {
    table.real(flag, target, may.min, may.max, help);
}
void declare_option(option_table & table, const char * flag, std::optional<int64_t> & target,
                    const rope_range<int64_t> & may, const char * help) {
    table.integer(flag, target, may.min, may.max, help);
}

// The mistake, with the option's flag.
usage_error with_flag(const rope_option_error & mistake) {
    std::string flag;
    for_each_rope_option([&](const char * name, auto, const auto &, const char * its_flag, const char *) {
        flag = mistake.field == name ? its_flag : flag;
    });
    return usage_error(flag + ": " + mistake.problem);
}

}  // namespace

void engine_options::declare(option_table & table, bool kv_is_list) {
    n_threads = default_threads();
    table.group("Model and machine");
    table.text("-m,--model", model_path, "FILE", "GGUF file of a model, or any part of it");
    table.integer("-t,--threads", n_threads, 1, 512, "CPU threads");
    table.integer("-ngl,--gpu-layers", n_gpu_layers, 0, 100000, "layers computed on the GPU, when the build has one");
    table.flag("--no-repack", no_repack, "multiply with the weights as the file has them, by ggml");
    for_each_rope_option([&](const char *, auto member, const auto & may, const char * flag, const char * help) {
        declare_option(table, flag, rope.*member, may, help);
    });
    declare_kv_options(table, kv, dashes, /*with_policy=*/!kv_is_list);
}

void engine_options::declare_dequantize(option_table & table) {
    table.flag(
        "--dequantize", dequantize,
        "compute with the numbers in f32 that quantized weights stand for, four to eight times the memory: their "
        "products round nothing, and a difference is the cache's");
}

std::shared_ptr<const model> engine_options::load() const {
    try {
        const weight_form form = dequantize ? weight_form::f32 : no_repack ? weight_form::stored : weight_form::packed;
        return model::load(model_path, n_gpu_layers, rope, form);
    } catch (const rope_option_error & mistake) {
        throw with_flag(mistake);
    }
}

session_params engine_options::params(int64_t n_ctx, const std::string & policy) const {
    session_params p;
    p.n_ctx = n_ctx;
    p.n_threads = static_cast<int32_t>(n_threads);
    p.kv = kv.for_policy(policy);
    return p;
}

void engine_options::check(const option_table & table, const std::vector<std::string> & policies) const {
    if (model_path.empty()) {
        throw usage_error("no model given (-m FILE)");
    }
    try {
        rope.check();
    } catch (const rope_option_error & mistake) {
        throw with_flag(mistake);
    }
    refuse_unread(table, "preset", policies);
    for_each_kv_option(
        [&](const char * field, auto, const auto &, const char *) { refuse_unread(table, field, policies); });
    try {
        for (const std::string & name : policies) {
            kv.for_policy(name).check();
        }
    } catch (const kv_option_error & problem) {
        throw usage_error(dashes + kv_option_name(problem.field) + ": " + problem.problem);
    }
    for_each_kv_option(
        [&](const char * field, auto, const auto &, const char *) { refuse_idle(table, kv, field, policies); });
}

void engine_options::refuse_questions(const std::vector<std::string> & policies) {
    for (const std::string & name : policies) {
        if (find_kv_policy(name).is_finch) {
            throw usage_error("--kv " + name + " reads a prompt for a question, which this tool has not");
        }
    }
}

}  // namespace livekv
