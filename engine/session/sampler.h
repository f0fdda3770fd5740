#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace livekv {

// How the next token is chosen. What each field may be and what it is for: sampling_fields.h.
struct sampler_params {
    double temperature = 0.8;     // 0: greedy
    int64_t top_k = 40;           // 0: off
    double top_p = 0.95;          // 1: off
    double min_p = 0.05;          // 0: off
    double repeat_penalty = 1.0;  // 1: off; Keskar et al. 2019 (CTRL), section 4.1
    int64_t repeat_last_n = 64;   // tokens the penalty looks back over
    uint64_t seed = 0;

    // Throws livekv::error for a value out of its range, or none.
    void check() const;
};

// Chooses the next token from logits. The same parameters, seed and logits give the same tokens.
class sampler {
  public:
    // Throws livekv::error as sampler_params::check does.
    explicit sampler(const sampler_params & params);

    // logits: f32 [n_vocab]. banned: ids never chosen. Throws livekv::error when a logit is not finite.
    int32_t next(std::span<const float> logits, std::span<const int32_t> banned = {});

    // Tells the repetition penalty of a token that was not sampled here: the prompt's.
    void observe(int32_t token);

  private:
    struct candidate {
        int32_t id;
        float logit;
    };

    void penalize_repeats();  // while candidate i is token i
    void keep_top_k();
    std::vector<double> probabilities() const;

    sampler_params params_;
    std::mt19937_64 rng_;
    std::vector<candidate> candidates_;
    std::vector<int32_t> recent_;  // ring of the last repeat_last_n tokens
    size_t recent_at_ = 0;
};

}  // namespace livekv
