#include "policy/kv_options.h"

#include <algorithm>
#include <cmath>
#include <sstream>

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
void check_range(const char *, bool, kv_on_off) {}
void check_range(const char *, bool, kv_switch) {}

}  // namespace

void kv_options::check() const {
    find_kv_policy(policy);
    const kv_options shipped;
    for_each_kv_option([&](const char * name, auto member, const auto & may, const char *) {
        check_range(name, this->*member, may);
        if (!(this->*member == shipped.*member)) {
            require_read(policy, name);
        }
    });
    if (key_alloc == kv_key_alloc::off) {
        if (key_quarters != 0) {
            refuse("key_quarters", key_quarters, " is for channels with widths of their own (key-alloc block)");
        }
        if (key_feedback) {
            refuse("key_feedback", "it is for channels with widths of their own (key-alloc block)");
        }
    } else if (bits.k > 5) {
        refuse("key_alloc", "channels have up to 6 bits, so their average is 2 to 5.75, not ", bits.k);
    } else if (outlier_ratio != 0.0) {
        refuse("key_alloc", "it takes outlier-ratio 0, not ", outlier_ratio);
    } else if (rotate == kv_rotate::k || rotate == kv_rotate::kv) {
        refuse("key_alloc", "it takes keys that are not rotated (rotate none or v)");
    } else if (!zero_point || !method().own_range()) {
        refuse("key_alloc", "it takes zero-point on and a group's own range (scale-method ema_clipped or range)");
    }
    if (sink_tokens > chunk_size) {
        refuse("sink_tokens", sink_tokens, " is more than the chunk size, ", chunk_size);
    }
}

kv_options kv_options::for_policy(const std::string & name) const {
    const kv_policy & how = find_kv_policy(name);
    kv_options kept;
    kept.policy = name;
    for_each_kv_option([&](const char * option, auto member, const auto &, const char *) {
        if (how.reads(option)) {
            kept.*member = this->*member;
        }
    });
    return kept;
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
    m.key_classes = key_alloc == kv_key_alloc::block;
    m.key_quarters = static_cast<int32_t>(key_quarters);
    m.key_feedback = key_feedback;
    return m;
}

int64_t kv_options::n_bypass(int64_t n_layer) const {
    const int64_t tenth = static_cast<int64_t>(std::nearbyint(0.1 * static_cast<double>(n_layer)));
    return std::min(n_layer, bypass_layers < 0 ? tenth : bypass_layers);
}

}  // namespace livekv
