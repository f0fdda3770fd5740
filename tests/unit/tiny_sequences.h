#pragma once

// Sequences of tokens in sessions of the small random models.

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "policy/kv_policies.h"
#include "session/session.h"
#include "tiny_model.h"

namespace tiny_sequences {

using namespace livekv;

inline std::shared_ptr<const model> tiny_model(const tiny_spec & spec = {}) {
    const temporary_file path(".gguf");
    write_tiny_model(spec, path.path());
    return model::load(path.path());  // the mapping outlives the name
}

inline session_params params_of(const std::string & kv, int64_t chunk_size, int64_t n_ctx = 300) {
    session_params p;
    p.n_ctx = n_ctx;
    p.n_threads = 2;
    p.kv.policy = kv;
    (kv == "kivi" ? p.kv.residual : p.kv.chunk_size) = chunk_size;
    return p;
}

// The policies that read a prompt without a question.
inline std::vector<std::string> prompt_policies() {
    std::vector<std::string> names = kv_policy_names();
    std::erase(names, "finch");
    return names;
}

// <s> and byte tokens; never </s>.
inline std::vector<int32_t> some_tokens(int n, uint32_t seed = 3) {
    std::vector<int32_t> tokens = {1};
    while (static_cast<int>(tokens.size()) < n) {
        seed = seed * 1103515245 + 12345;
        tokens.push_back(3 + static_cast<int32_t>((seed >> 8) % 256));
    }
    return tokens;
}

inline std::vector<float> last_logits(session & s, const std::vector<int32_t> & tokens) {
    const auto logits = s.prefill(tokens);
    return {logits.begin(), logits.end()};
}

// The logits, and then those of each of n greedy tokens after them.
inline std::vector<float> decode(session & s, std::vector<float> logits, int n) {
    std::vector<float> all = logits;
    for (int i = 0; i < n; ++i) {
        const int32_t next = static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
        const std::span<const float> after = s.append(next);
        logits.assign(after.begin(), after.end());
        all.insert(all.end(), logits.begin(), logits.end());
    }
    return all;
}

inline bool same_bits(std::span<const float> a, std::span<const float> b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}

// Normalized mean squared error: 0 is equal, 2 unrelated.
inline double nmse(const std::vector<float> & a, const std::vector<float> & b) {
    double error = 0.0;
    double power = 0.0;
    for (size_t i = 0; i < a.size(); ++i) {
        error += (a[i] - b[i]) * (a[i] - b[i]);
        power += b[i] * b[i];
    }
    return error / power;
}

}  // namespace tiny_sequences
