#include "session/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "error.h"
#include "finite.h"
#include "session/sampling_fields.h"

namespace livekv {

namespace {

template <typename T>
void require_range(const char * name, T value, T min, T max) {
    if (value >= min && value <= max) {  // false for NaN
        return;
    }
    const bool unbounded = max == std::numeric_limits<double>::infinity() || (value < min && max == INT32_MAX);
    unbounded ? fail(name, " ", value, " is not a number of ", min, " or more")
              : fail(name, " ", value, " is not a number in ", min, "..", max);
}

}  // namespace

void sampler_params::check() const {
    for_each_sampling_option([&](const char * name, auto member, const auto & may, const char *, const char *) {
        require_range(name, this->*member, may.min, may.max);
    });
}

sampler::sampler(const sampler_params & params) : params_(params), rng_(params.seed) {
    params_.check();
}

void sampler::observe(int32_t token) {
    const size_t capacity = static_cast<size_t>(params_.repeat_last_n);
    if (recent_.size() < capacity) {
        recent_.push_back(token);
    } else if (capacity > 0) {
        recent_[recent_at_] = token;
        recent_at_ = (recent_at_ + 1) % capacity;
    }
}

void sampler::penalize_repeats() {
    if (params_.repeat_penalty == 1.0) {
        return;
    }
    std::vector<int32_t> seen = recent_;
    std::sort(seen.begin(), seen.end());
    seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
    for (const int32_t id : seen) {
        if (id < 0 || static_cast<size_t>(id) >= candidates_.size()) {
            continue;
        }
        candidate & c = candidates_[static_cast<size_t>(id)];
        const double factor = c.logit > 0.0f ? 1.0 / params_.repeat_penalty : params_.repeat_penalty;
        c.logit = static_cast<float>(c.logit * factor);
    }
}

// Leaves the candidates sorted, best first; equal logits by id, so that the order is the same everywhere.
void sampler::keep_top_k() {
    const size_t k =
        params_.top_k > 0 ? std::min(candidates_.size(), static_cast<size_t>(params_.top_k)) : candidates_.size();
    const auto better = [](const candidate & a, const candidate & b) {
        return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
    };
    std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<int64_t>(k), candidates_.end(), better);
    candidates_.resize(k);
}

// Softmax of the candidates' logits at temperature 1.
std::vector<double> sampler::probabilities() const {
    std::vector<double> p(candidates_.size());
    double sum = 0.0;
    for (size_t i = 0; i < p.size(); ++i) {
        p[i] = std::exp(static_cast<double>(candidates_[i].logit) - candidates_[0].logit);
        sum += p[i];
    }
    for (double & x : p) {
        x /= sum;
    }
    return p;
}

int32_t sampler::next(std::span<const float> logits, std::span<const int32_t> banned) {
    if (const auto bad = first_not_finite(logits)) {
        fail("cannot choose among logits that are not numbers: that of token ", *bad, " is ", logits[*bad]);
    }
    candidates_.clear();
    for (size_t i = 0; i < logits.size(); ++i) {
        candidates_.push_back({static_cast<int32_t>(i), logits[i]});
    }
    for (const int32_t id : banned) {
        candidates_[static_cast<size_t>(id)].logit = -std::numeric_limits<float>::infinity();
    }
    penalize_repeats();
    if (!banned.empty()) {  // however the probabilities of the others round
        std::erase_if(candidates_, [](const candidate & c) { return c.logit < std::numeric_limits<float>::lowest(); });
        if (candidates_.empty()) {
            fail("cannot choose a token: all of them are banned");
        }
    }
    int32_t chosen = 0;
    if (params_.temperature <= 0.0) {
        chosen = std::max_element(candidates_.begin(), candidates_.end(), [](const candidate & a, const candidate & b) {
                     return a.logit < b.logit;
                 })->id;
    } else {
        keep_top_k();
        const std::vector<double> p = probabilities();
        // The smallest set of best tokens that reaches top_p, and of those the ones with at least min_p of the best
        // one's probability.
        size_t n_kept = 0;
        for (double sum = 0.0; n_kept < p.size() && sum < params_.top_p && p[n_kept] >= params_.min_p * p[0];) {
            sum += p[n_kept++];
        }
        candidates_.resize(std::max<size_t>(n_kept, 1));
        for (candidate & c : candidates_) {
            c.logit = static_cast<float>(c.logit / params_.temperature);
        }
        const std::vector<double> q = probabilities();
        // Not std::discrete_distribution: its results differ between standard libraries.
        double left = static_cast<double>(rng_() >> 11) * 0x1.0p-53;
        size_t i = 0;
        while (i + 1 < q.size() && left >= q[i]) {
            left -= q[i++];
        }
        chosen = candidates_[i].id;
    }
    observe(chosen);
    return chosen;
}

}  // namespace livekv
