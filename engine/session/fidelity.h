#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "session/session.h"

namespace livekv {

// How well a cache predicts a text, and how far its predictions are from another cache's.
struct fidelity {
    int64_t n_windows = 0;
    int64_t n_tokens = 0;  // scored: the second half of each window
    double ppl = 0.0;
    double ppl_stderr = 0.0;
    double bits_per_value = 0.0;  // of a full window
    std::vector<double> nll;      // [n_tokens] each token's negative log-likelihood, nats

    // Kullback-Leibler divergence in nats of each scored token's next-token distribution from the base cache's.
    struct divergence {
        double mean = 0.0;
        double mean_stderr = 0.0;
        double median = 0.0;
        double p999 = 0.0;
        double max = 0.0;
        double same_top = 0.0;  // share of tokens whose most likely successor is the same
        double base_ppl = 0.0;
        std::vector<double> tokens;    // [n_tokens] each token's divergence, to compare runs pairwise
        std::vector<double> base_nll;  // [n_tokens]
    };
    std::optional<divergence> kl;
};

// The numbers of a result, each once and in order: visit(name in livekv-perplexity's JSON, name in Python, value).
template <typename Visit>
void visit_numbers(const fidelity & f, const Visit & visit) {
    visit("n_windows", "n_windows", f.n_windows);
    visit("n_tokens", "n_scored", f.n_tokens);
    visit("ppl", "perplexity", f.ppl);
    visit("ppl_stderr", "perplexity_se", f.ppl_stderr);
    visit("bits_per_value", "bits_per_value", f.bits_per_value);
}

template <typename Visit>
void visit_numbers(const fidelity::divergence & kl, const Visit & visit) {
    visit("base_ppl", "base_perplexity", kl.base_ppl);
    visit("kl_mean", "kl_mean", kl.mean);
    visit("kl_mean_stderr", "kl_se", kl.mean_stderr);
    visit("kl_median", "kl_median", kl.median);
    visit("kl_p999", "kl_p999", kl.p999);
    visit("kl_max", "kl_max", kl.max);
    visit("same_top", "same_top", kl.same_top);
}

struct fidelity_params {
    session_params test;                // test.n_ctx is the window, at least min_window
    std::optional<kv_options> kl_base;  // the cache to compare against
    int64_t max_windows = 0;            // 0: all the text has

    static constexpr int64_t min_window = 8;
};

struct fidelity_callbacks {
    std::function<void(int64_t done, int64_t total)> on_window;  // after each window
    std::function<void()> on_chunk;                              // after each chunk; may throw to end the measurement
};

// Cuts tokens into windows of n_ctx (a rest is left out), each starting with the model's <bos> in place of its first
// token if the model wants one, feeds them through live compression, and scores the second half of each. Standard
// errors take tokens as independent.
// Throws livekv::error when the text is shorter than one window.
fidelity measure_fidelity(const std::shared_ptr<const model> & m, const std::vector<int32_t> & tokens,
                          const fidelity_params & params, const fidelity_callbacks & callbacks = {});

}  // namespace livekv
