#include "policy/kv_options.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

#include "kv/kv_kvquant.h"
#include "policy/kv_option_fields.h"
#include "policy/kv_policies.h"

namespace livekv {

namespace {

template <typename... Parts>
[[noreturn]] void refuse(const std::string & field, const Parts &... parts) {
    std::ostringstream why;
    (why << ... << parts);
    throw kv_option_error(field, why.str());
}

void check_range(const char * name, int64_t value, const kv_whole & may) {
    const bool in_range = value >= may.min && value <= may.max && value % may.multiple == 0;
    if (!in_range && !(may.word && value == may.word_value)) {
        refuse(name, value, " is not ", may.multiple > 1 ? "a multiple of " + std::to_string(may.multiple) : "",
               may.multiple > 1 ? " " : "", "in ", may.min, "..", may.max);
    }
}
void check_range(const char * name, double value, const kv_real & may) {
    const bool in_range = value >= may.min && value <= may.max;  // false for NaN
    if (!in_range && !(may.word && value == may.word_value)) {
        refuse(name, value, " is not in ", may.min, "..", may.max);
    }
}
void check_range(const char * name, const kv_bits & value, kv_widths) {
    for (const int64_t bits : {value.k, value.v}) {
        if (std::find(kv_code_widths.begin(), kv_code_widths.end(), bits) == kv_code_widths.end()) {
            refuse(name, bits, " is not one of 2, 3, 4, 5, 8");
        }
    }
}
template <typename E>
void check_range(const char * name, const E & value, kv_one_of) {
    if (static_cast<size_t>(value) >= names_of(value).size()) {
        refuse(name, "the enumerator ", static_cast<int>(value), " does not exist");
    }
}
void check_range(const char * name, int64_t value, kv_width) {
    if (std::find(kv_stream_widths.begin(), kv_stream_widths.end(), value) == kv_stream_widths.end()) {
        refuse(name, value, " is not one of 2, 3, 4, 5, 8, 16");
    }
}
void check_range(const char *, const std::array<int64_t, 3> &, kv_levels) {}  // guided_method::first_fault does
void check_range(const char *, const std::string &, kv_file_name) {}
void check_range(const char *, bool, kv_on_off) {}
void check_range(const char *, bool, kv_switch) {}

// Why channels cannot have widths of their own; empty: they can.
std::string excludes_classes(const kv_options & o) {
    std::ostringstream why;
    const bool own_range = o.scale_method == kv_method::scale::ema_clipped || o.scale_method == kv_method::scale::range;
    if (o.bits.k > 5) {
        why << "channels have up to 6 bits, so their average is 2 to 5.75, not " << o.bits.k;
    } else if (o.outlier_ratio != 0.0) {
        why << "it takes outlier-ratio 0, not " << o.outlier_ratio;
    } else if (o.rotate == kv_rotate::k || o.rotate == kv_rotate::kv) {
        why << "it takes keys that are not rotated (rotate none or v)";
    } else if (!o.zero_point || !own_range) {
        why << "it takes zero-point on and a group's own range (scale-method ema_clipped or range)";
    }
    return why.str();
}

void check_stream(const kv_options & o) {
    if (o.key_bits_sink_outlier < o.key_bits_normal) {
        refuse("key_bits_sink_outlier", o.key_bits_sink_outlier, " is less than key-bits-normal, ", o.key_bits_normal);
    }
    if (o.value_bits_sink_outlier < o.value_bits_normal) {
        refuse("value_bits_sink_outlier", o.value_bits_sink_outlier, " is less than value-bits-normal, ",
               o.value_bits_normal);
    }
    if (o.outlier_detection && o.outlier_threshold_relative * (1.0 - o.ema_decay) > 1.0 - 1e-9) {
        refuse("outlier_threshold_relative", o.outlier_threshold_relative, " can never flag a channel with ema-decay ",
               o.ema_decay, ": it must be below ", 1.0 / (1.0 - o.ema_decay));
    }
}

void check_guided(const kv_options & o) {
    if (const auto fault = o.guided().first_fault()) {
        throw kv_option_error(fault->option, fault->why);
    }
    if (o.guide == guided_method::guide_at::last && o.propagate == guided_method::propagation::layers) {
        refuse("propagate",
               "with guide last it is off or cache: which tokens go on to later layers would be known when these have "
               "read all of them");
    }
}

void check_kivi(const kv_options & o) {
    for (const int64_t bits : {o.bits.k, o.bits.v}) {
        if (bits != 2 && bits != 4) {
            refuse("kv_bits", bits, " is neither 2 nor 4, which the cache kivi has");
        }
    }
}

void check_fastkv(const kv_options & o) {
    const kv_options shipped;
    if (o.store == kv_store_as::f16 && !(o.bits == shipped.bits)) {
        refuse("kv_bits", "it is for what is sealed (store livekv)");
    }
}

void check_kvquant(const kv_options & o) {
    if (o.bits.k != o.bits.v || o.bits.k > kvquant_max_bits) {
        refuse("kv_bits", "the cache kvquant has 2, 3 or 4 bits, of keys and values alike");
    }
    if (o.calibration.empty()) {
        refuse("calibration", "the cache kvquant needs one, which python -m python_eval.calibrate makes");
    }
}

}  // namespace

void kv_options::check() const {
    const kv_policy & how = find_kv_policy(policy);
    if (!preset.empty() && !how.has_preset(preset)) {
        refuse("preset", "'", preset, "' is none of the cache ", policy);
    }
    const kv_options shipped;
    for_each_kv_option([&](const char * name, auto member, const auto & may, const char *) {
        check_range(name, this->*member, may);
        if (!(this->*member == shipped.*member)) {
            require_read(policy, name);
        }
    });
    const std::string excluded = excludes_classes(*this);
    if (key_alloc == kv_key_alloc::block && !excluded.empty()) {
        refuse("key_alloc", excluded);
    }
    if (key_quarters != 0 && !has_key_classes()) {
        refuse("key_quarters", key_quarters, " is for channels with widths of their own",
               excluded.empty() ? " (key-alloc auto or block)" : ": " + excluded);
    }
    if (key_feedback == kv_key_feedback::on && !has_key_classes()) {
        refuse("key_feedback", "it is for channels with widths of their own",
               excluded.empty() ? " (key-alloc auto or block)" : ": " + excluded);
    }
    if (sink_tokens > chunk_size) {
        refuse("sink_tokens", sink_tokens, " is more than the chunk size, ", chunk_size);
    }
    check_stream(*this);
    check_guided(*this);
    if (how.is_kivi) {
        check_kivi(*this);
    }
    if (how.is_fastkv) {
        check_fastkv(*this);
    }
    if (how.is_kvquant) {
        check_kvquant(*this);
    }
}

kv_options kv_options::for_policy(const std::string & name) const {
    const kv_policy & how = find_kv_policy(name);
    kv_options kept;
    kept.policy = name;
    kept.preset = how.reads("preset") ? preset : "";
    for_each_kv_option([&](const char * option, auto member, const auto &, const char *) {
        if (how.reads(option)) {
            kept.*member = this->*member;
        }
    });
    if (!how.compresses) {  // reads a prompt as this one does
        kept.chunk_size = chunk_tokens();
    }
    return kept;
}

bool kv_options::has_key_classes() const {
    return key_alloc == kv_key_alloc::block ||
           (key_alloc == kv_key_alloc::automatic && excludes_classes(*this).empty());
}

bool kv_options::has_key_feedback() const {
    return key_feedback != kv_key_feedback::off && has_key_classes();
}

kv_method kv_options::method() const {
    kv_method m;
    m.k_bits = static_cast<int32_t>(bits.k);
    m.v_bits = static_cast<int32_t>(bits.v);
    m.key_group = static_cast<int32_t>(key_group);
    m.zero_point = zero_point;
    m.ema_alpha = ema_alpha;
    m.clip_factor = clip_factor;
    m.outlier_ratio = outlier_ratio;
    m.v_outlier_ratio = v_outlier_ratio;
    m.sink_tokens = static_cast<int32_t>(sink_tokens);
    m.scale_method = scale_method;
    m.key_classes = has_key_classes();
    m.key_quarters = static_cast<int32_t>(key_quarters);
    m.key_feedback = has_key_feedback();
    return m;
}

stream_method kv_options::stream(kv_side side) const {
    const bool keys = side == kv_side::key;
    stream_method m;
    m.bits = static_cast<int32_t>(keys ? key_bits_normal : value_bits_normal);
    m.high_bits = static_cast<int32_t>(keys ? key_bits_sink_outlier : value_bits_sink_outlier);
    m.groups = keys ? 0 : static_cast<int32_t>(value_quant_groups);
    m.sink_tokens = static_cast<int32_t>(sink_tokens);
    m.decay = static_cast<float>(ema_decay);
    m.relative = static_cast<float>(outlier_threshold_relative);
    m.absolute = outlier_threshold_abs > 0.0 ? static_cast<float>(outlier_threshold_abs)
                                             : std::numeric_limits<float>::infinity();
    m.detects = outlier_detection;
    m.scale_range = stream_range;
    m.stat_reset = static_cast<int32_t>(stat_reset);
    return m;
}

guided_method kv_options::guided() const {
    guided_method m;
    m.alpha = alpha;
    m.beta = beta;
    m.gamma = gamma;
    m.theta_h = theta_h;
    m.theta_m = theta_m;
    std::ranges::transform(level_bits, m.bits.begin(), [](int64_t width) { return static_cast<int32_t>(width); });
    m.shares = {early_ratio, middle_ratio, later_ratio};
    m.normalized = guide_norm;
    m.guide = guide;
    m.guide_tokens = guide_tokens;
    m.propagates = propagate;
    m.budget = budget;
    m.protects = protect;
    m.sink_tokens = sink_tokens;
    m.keep_last = keep_last;
    m.keys = key_axis;
    m.min_class = min_class;
    return m;
}

kivi_method kv_options::kivi() const {
    return {static_cast<int32_t>(bits.k), static_cast<int32_t>(bits.v), residual};
}

int64_t kv_options::fastkv_layer(int64_t n_layer) const {
    const int64_t layer = tsp_layer < 0 ? std::max<int64_t>(0, n_layer / 2 - 1) : tsp_layer;
    if (layer + 1 >= n_layer) {
        refuse("tsp_layer", "behind layer ", layer, " there must be others; the model has ", n_layer);
    }
    return layer;
}

void kv_options::require_room_for(int64_t n_context, int64_t n_question) const {
    if (target_tokens <= n_question) {
        refuse("target_tokens", target_tokens, " leave no room for a context beside the question, which has ",
               n_question, " tokens");
    }
    const int64_t factor = finch().factor(n_context, n_question);
    if (factor > std::min(chunk_size, n_context)) {
        refuse("target_tokens", target_tokens, " beside a question of ", n_question, " tokens keep one of ", factor,
               " tokens of the context, which is none of a chunk of ", chunk_size);
    }
}

int64_t kv_options::chunk_tokens() const {
    return find_kv_policy(policy).is_kivi ? residual : chunk_size;
}

int64_t kv_options::n_bypass(int64_t n_layer) const {
    const int64_t tenth = static_cast<int64_t>(std::nearbyint(0.1 * static_cast<double>(n_layer)));
    return std::min(n_layer, bypass_layers < 0 ? tenth : bypass_layers);
}

}  // namespace livekv
