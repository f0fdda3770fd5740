#pragma once

// The sampling options, said once: name, member, range, flag, help. sampler_params::check(), the command line, its
// report and Python are made from these lines.

#include <cstdint>
#include <limits>

#include "session/sampler.h"

namespace livekv {

// What a field may be: a number in min..max.
template <typename T>
struct sampling_range {
    T min;
    T max;
};

// Calls f(name, member of sampler_params, range, flag, help) for each option, in the order help shows them. flag: null
// for what only C++ can say. The seed is not among them: any is as good, and each front draws its own.
template <typename F>
void for_each_sampling_option(F && f) {
    using p = sampler_params;
    using real = sampling_range<double>;
    using count = sampling_range<int64_t>;
    constexpr double unbounded = std::numeric_limits<double>::infinity();
    f("temperature", &p::temperature, real{0.0, 100.0}, "--temp", "temperature; 0: greedy");
    f("top_k", &p::top_k, count{0, INT32_MAX}, "--top-k", "choose among the k best tokens; 0: all");
    f("top_p", &p::top_p, real{0.0, 1.0}, "--top-p",
      "choose among the best tokens that reach this probability together");
    f("min_p", &p::min_p, real{0.0, 1.0}, "--min-p", "drop tokens below this share of the best one's probability");
    f("repeat_penalty", &p::repeat_penalty, real{0.01, unbounded}, "--repeat-penalty",
      "divide the logits of the last 64 tokens; 1: off");
    f("repeat_last_n", &p::repeat_last_n, count{0, INT32_MAX}, nullptr, "tokens the penalty looks back over");
}

}  // namespace livekv
