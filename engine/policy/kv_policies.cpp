#include "policy/kv_policies.h"

#include "policy/kv_options.h"

namespace livekv {

const std::vector<kv_policy> & kv_policies() {
    static const std::vector<kv_policy> all = {
        {"livekv", true},
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
                              "the cache " + policy + " does not read it, " + policies_that_read(option) + " does");
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

}  // namespace livekv
