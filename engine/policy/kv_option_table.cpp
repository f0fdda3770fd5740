#include "policy/kv_option_table.h"

#include <algorithm>
#include <array>
#include <sstream>

#include "error.h"
#include "policy/kv_option_fields.h"
#include "policy/kv_policies.h"

namespace livekv {

namespace {

template <typename Names>
std::string joined(const Names & names, const char * separator) {
    std::string text;
    for (const auto & name : names) {
        std::ostringstream one;
        one << name;
        text += text.empty() ? "" : separator;
        text += one.str();
    }
    return text;
}

// Options that came with a version of the file, and what they are in files of earlier ones.
struct later_option {
    const char * field;
    int version;
    const char * meant;
};
constexpr std::array later_options = {
    later_option{"key_alloc", 4, "off"},
    later_option{"key_quarters", 4, "0"},
    later_option{"key_feedback", 5, "off"},
    later_option{"only_layer", 5, "all"},
};
// The fields of a preset, of every policy that has it.
kv_options preset_fields(const std::string & name);

// One option of the table, for each kind of field.
struct declaration {
    option_table & table;

    void operator()(const std::string & name, int64_t & target, const kv_whole & may, const char * help) const {
        if (may.word) {
            table.integer_or(name, target, may.word, may.word_value, may.min, may.max, help);
        } else {
            table.integer(name, target, may.min, may.max, help);
        }
        if (may.multiple > 1) {
            table.require([&target, n = may.multiple](const std::string &) { return target % n == 0; },
                          "a multiple of " + std::to_string(may.multiple));
        }
    }
    void operator()(const std::string & name, double & target, const kv_real & may, const char * help) const {
        if (may.word) {
            table.real_or(name, target, may.word, may.word_value, may.min, may.max, help);
        } else {
            table.real(name, target, may.min, may.max, help);
        }
    }
    void operator()(const std::string & name, bool & target, kv_on_off, const char * help) const {
        table.toggle(name, target, help);
    }
    void operator()(const std::string & name, bool & target, const kv_switch &, const char * help) const {
        table.flag(name, target, help);
    }
    void operator()(const std::string & name, std::string & target, kv_file_name, const char * help) const {
        table.text(name, target, "FILE", help);
    }
    template <typename E>
    void operator()(const std::string & name, E & target, kv_one_of, const char * help) const {
        const auto names = names_of(target);
        table.custom(name, "NAME", names[static_cast<size_t>(target)], joined(names, "|"), help,
                     [&target, names](const std::string & typed) {
                         const auto found = std::find(names.begin(), names.end(), typed);
                         if (found == names.end()) {
                             fail("'", typed, "' is not one of ", joined(names, ", "));
                         }
                         target = static_cast<E>(found - names.begin());
                     });
    }
    void operator()(const std::string & name, int64_t & target, kv_width, const char * help) const {
        table.custom(name, "N", std::to_string(target), joined(kv_stream_widths, "|"), help,
                     [&target](const std::string & typed) {
                         for (const int64_t width : kv_stream_widths) {
                             if (typed == std::to_string(width)) {
                                 target = width;
                                 return;
                             }
                         }
                         fail("'", typed, "' is not one of ", joined(kv_stream_widths, ", "));
                     });
    }
    void operator()(const std::string & name, std::array<int64_t, 3> & target, kv_levels, const char * help) const {
        table.custom(name, "N,N,N", joined(target, ","), joined(kv_stream_widths, "|"), help,
                     [&target](const std::string & typed) { target = parse_kv_levels(typed); });
    }
    void operator()(const std::string & name, kv_bits & target, kv_widths, const char * help) const {
        const std::string k = std::to_string(target.k);
        table.custom(name, "N,N,...", target.k == target.v ? k : k + "," + std::to_string(target.v), "2..8", help,
                     [&target](const std::string & typed) { target = parse_kv_bits(typed); });
    }
};

}  // namespace

kv_bits parse_kv_bits(const std::string & text) {
    const auto width = [&](const std::string & one) {
        const bool known = one.size() == 1 && std::any_of(kv_code_widths.begin(), kv_code_widths.end(),
                                                          [&](int64_t w) { return one[0] - '0' == w; });
        if (!known) {
            fail("'", text, "' is not one or two of 2, 3, 4, 5 and 8");
        }
        return static_cast<int64_t>(one[0] - '0');
    };
    const size_t comma = text.find(',');
    return comma == std::string::npos ? kv_bits(width(text))
                                      : kv_bits(width(text.substr(0, comma)), width(text.substr(comma + 1)));
}

std::array<int64_t, 3> parse_kv_levels(const std::string & text) {
    std::array<int64_t, 3> levels = {};
    const std::string separated = text + ",";
    size_t from = 0;
    for (int64_t & level : levels) {
        const size_t to = separated.find(',', from);
        const std::string one = separated.substr(from, to == std::string::npos ? to : to - from);
        const auto found = std::ranges::find_if(kv_stream_widths, [&](int64_t w) { return one == std::to_string(w); });
        const bool dropped = &level == &levels.back() && one == "0";
        if (to == std::string::npos || (found == kv_stream_widths.end() && !dropped)) {
            from = std::string::npos;
            break;
        }
        level = dropped ? 0 : *found;
        from = to + 1;
    }
    if (from != separated.size()) {
        fail("'", text, "' is not three of 16, 8, 5, 4, 3, 2; the last may be 0");
    }
    return levels;
}

std::string kv_option_name(const std::string & field) {
    std::string text = field == "policy" ? "kv" : field;
    for_each_kv_option([&](const char * name, auto, const auto & may, const char *) {
        if constexpr (std::is_same_v<std::decay_t<decltype(may)>, kv_switch>) {
            text = field == name ? may.name : text;
        }
    });
    std::replace(text.begin(), text.end(), '_', '-');
    return text;
}

void declare_kv_options(option_table & table, kv_options & o, const std::string & dashes, bool with_policy) {
    table.group("Cache");
    if (with_policy) {
        table.choice(dashes + kv_option_name("policy"), o.policy, kv_policy_names(), "how keys and values are stored");
    }
    bool compresses = false;
    std::string owner = "livekv";
    for_each_kv_option([&](const char * field, auto member, const auto & may, const char * help) {
        if (!compresses && !find_kv_policy("f16").reads(field)) {
            compresses = true;
            table.group("Compression (" + dashes + "kv livekv)");
            // Which policy is to have them may be said later: each takes what it reads (kv_options::for_policy).
            table.preset(
                dashes + "preset", kv_preset_names(),
                [&o](const std::string & preset) {
                    kv_options p = preset_fields(preset);
                    p.policy = o.policy;
                    p.measure_error = o.measure_error;
                    o = p;
                },
                "settings to start from, changed by other options wherever they stand: the published method; about 5 "
                "bits; 3.4; 2.5");
        }
        const std::string of = find_kv_policy("livekv").reads(field) ? "livekv" : policies_that_read(field);
        if (compresses && of != owner) {
            owner = of;
            const bool has_bits = of == "kivi" || of == "fastkv" || of == "kvquant";
            const char * const shared = has_bits        ? "kv-bits"
                                        : of == "finch" ? "chunk-size"
                                                        : "sink-tokens";  // with livekv
            table.group(
                "Compression (" + dashes + "kv " +
                (of == "livekv" ? policies_that_read(field) : of + ", which reads " + dashes + shared + " too") + ")");
        }
        declaration{table}(dashes + kv_option_name(field), o.*member, may, help);
        for (const auto & [later, version, meant] : later_options) {
            if (std::string(field) == later) {
                table.since(version, meant);
            }
        }
        if (of != "livekv" && compresses) {
            const bool in_none = of == "fastkv" || of == "finch" || of == "kvquant";
            const int version = of == "kvstream" ? 5 : std::string(field) == "guide" ? 7 : 6;
            table.since(in_none ? in_no_file : version, table.all().back().initial);
        }
    });
}

const std::vector<std::string> & kv_preset_names() {
    static const std::vector<std::string> names = {"default", "reference", "quality", "small", "tiny"};
    return names;
}

namespace {

kv_options preset_fields(const std::string & name) {
    kv_options p;
    p.preset = name;
    if (name == "reference") {  // what the published systems do, bits and quality both
        p.scale_method = kv_method::scale::ema_absmax;
        p.key_group = 0;
        p.zero_point = false;
        p.rotate = kv_rotate::none;
        p.key_alloc = kv_key_alloc::off;
        p.outlier_ratio = 0.01;
        p.v_outlier_ratio = -1.0;
        p.bypass_layers = -1;
        p.bypass_type = kv_bypass::f16;
        p.warmup_keep = true;
        p.seal_decode = false;
        p.stream_range = stream_method::range::ema;
        p.protect = false;
        p.budget = guided_method::budget_of::bits;
        p.propagate = guided_method::propagation::cache;
        p.key_axis = guided_method::key_axis::token;
        p.min_class = 0;
    } else if (name == "quality") {
        p.bits = {5, 4};
    } else if (name == "small") {
        p.bits = 3;
    } else if (name == "tiny") {
        p.bits = 2;
        p.key_quarters = 1;
        p.key_group = 256;
    } else if (name != "default") {
        throw kv_option_error("preset", "'" + name + "' is not one of " + joined(kv_preset_names(), ", "));
    }
    return p;
}

}  // namespace

void apply_kv_preset(const std::string & name, kv_options & o) {
    kv_options p = preset_fields(name);
    p.measure_error = o.measure_error;
    p = p.for_policy(o.policy);
    if (!find_kv_policy(o.policy).has_preset(name)) {
        throw kv_option_error("preset", "'" + name + "' is none of the cache " + o.policy);
    }
    o = p;
}

}  // namespace livekv
