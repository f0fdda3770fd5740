#include "policy/kv_spec.h"

#include <algorithm>
#include <set>
#include <string_view>
#include <vector>

#include "policy/kv_option_fields.h"
#include "policy/kv_option_table.h"
#include "policy/kv_policies.h"

namespace livekv {

namespace {

std::vector<std::string> split(const std::string & text, char separator) {
    std::vector<std::string> parts;
    for (size_t from = 0, to = 0; to != std::string::npos; from = to + 1) {
        to = text.find(separator, from);
        parts.push_back(text.substr(from, to == std::string::npos ? to : to - from));
    }
    return parts;
}

bool contains(const std::vector<std::string> & names, const std::string & name) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

void start_from(const std::string & name, kv_options & o) {
    if (contains(kv_preset_names(), name)) {
        apply_kv_preset(name, o);
    } else if (contains(kv_policy_names(), name)) {
        o.policy = name;
    } else {
        std::string known;
        for (const auto & names : {kv_policy_names(), kv_preset_names()}) {
            for (const std::string & one : names) {
                known += (known.empty() ? "" : ", ") + one;
            }
        }
        fail("'", name, "' is neither a policy nor a preset; there are ", known);
    }
}

constexpr std::string_view preset_setting = "preset=";

// The preset that a setting names comes first, wherever it stands, as on the command line.
void start_from_setting(const std::vector<std::string> & parts, kv_options & o) {
    bool given = !o.preset.empty();
    for (const std::string & part : parts) {
        if (part == "preset") {
            fail("preset needs a value");
        }
        if (!part.starts_with(preset_setting)) {
            continue;
        }
        if (given) {
            fail("preset is given twice");
        }
        given = true;
        require_read(o.policy, "preset");
        apply_kv_preset(part.substr(preset_setting.size()), o);
    }
}

// setting: "NAME=VALUE", or "NAME" for a switch. A name may be written as the field is.
void set(const option_table & table, kv_options & o, const std::string & setting, std::set<std::string> & given) {
    const size_t equals = setting.find('=');
    std::string name = setting.substr(0, equals);
    std::ranges::replace(name, '_', '-');
    const std::string value = equals == std::string::npos ? "" : setting.substr(equals + 1);
    const auto found = std::find_if(table.all().begin(), table.all().end(),
                                    [&](const option & one) { return one.name == name && !one.first; });
    if (found == table.all().end()) {
        fail("there is no option '", name, "'; the command line's help lists them");
    }
    if (!given.insert(name).second) {
        fail(name, " is given twice");
    }
    for_each_kv_option([&](const char * field, auto, const auto &, const char *) {
        if (kv_option_name(field) == name) {
            require_read(o.policy, field);
        }
    });
    const bool is_switch = found->value.empty();
    if (is_switch && equals != std::string::npos && value != "on" && value != "off") {
        fail(name, ": '", value, "' is not one of on, off");
    }
    if (!is_switch && equals == std::string::npos) {
        fail(name, " needs a value");
    }
    if (!is_switch || value != "off") {
        found->set(value);
    }
}

}  // namespace

kv_options parse_kv_spec(const std::string & spec) {
    const std::vector<std::string> parts = split(spec, ':');
    kv_options o;
    try {
        start_from(parts.front(), o);
        start_from_setting(parts, o);
        option_table table;
        declare_kv_options(table, o, /*dashes=*/"", /*with_policy=*/false);
        std::set<std::string> given;
        for (size_t i = 1; i < parts.size(); ++i) {
            if (!parts[i].starts_with(preset_setting)) {
                set(table, o, parts[i], given);
            }
        }
        o.check();
    } catch (const error & problem) {
        fail("cache '", spec, "': ", problem.what());
    }
    return o;
}

}  // namespace livekv
