#pragma once

// The options of rotary positions, said once: name, member, what it may be, flag, help. rope_override::check(), the
// command line and Python are made from these lines.

#include <cstdint>
#include <string>
#include <vector>

#include "rope/rope_override.h"

namespace livekv {

struct rope_words {
    std::vector<std::string> allowed;
};
template <typename T>
struct rope_range {
    T min;
    T max;
};

// Calls f(name, member of rope_override, range, flag, help) for each option, in the order help shows them.
template <typename F>
void for_each_rope_option(F && f) {
    using o = rope_override;
    f("rope_scaling", &o::scaling, rope_words{{"none", "linear", "yarn"}}, "--rope-scaling",
      "instead of the file's way to reach positions beyond the training");
    f("rope_scale", &o::scale, rope_range<double>{1.0, 1e4}, "--rope-scale", "how many times as far");
    f("rope_base", &o::base, rope_range<double>{1.0001, 1e30}, "--rope-base",
      "base of the rotation frequencies, instead of the file's");
    f("yarn_orig_ctx", &o::yarn_orig_ctx, rope_range<int64_t>{1, INT32_MAX}, "--yarn-orig-ctx",
      "context of the training that YaRN starts from, instead of the file's");
}

}  // namespace livekv
