#include "rope/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace livekv {

namespace {

// Peng et al. 2023 (YaRN), section 3.2: which pair makes this many turns over the training's tokens.
double pair_of_turns(const rope_params & rope, double turns) {
    const double n_rot = static_cast<double>(rope.n_rot);
    const double wavelength = static_cast<double>(rope.n_ctx_orig) / turns;
    return n_rot * std::log(wavelength / (2.0 * std::numbers::pi)) / (2.0 * std::log(static_cast<double>(rope.base)));
}

// Of pair i: 1 where the wave stays as it is, 0 where it is stretched by the whole factor.
class yarn_ramp {
  public:
    explicit yarn_ramp(const rope_params & rope)
        : low_(std::max(0.0, std::floor(pair_of_turns(rope, rope.beta_fast)))),
          high_(std::min(static_cast<double>(rope.n_rot - 1), std::ceil(pair_of_turns(rope, rope.beta_slow)))) {}

    double kept(size_t i) const {
        return 1.0 - std::clamp((static_cast<double>(i) - low_) / std::max(0.001, high_ - low_), 0.0, 1.0);
    }

  private:
    double low_;
    double high_;
};

}  // namespace

std::vector<float> rope_divisors(const rope_params & rope) {
    std::vector<float> divisors = rope.divisors;
    if (rope.scaling != rope_scaling::none && rope.factor != 1.0f) {
        divisors.resize(static_cast<size_t>(rope.n_rot / 2), 1.0f);
        const yarn_ramp ramp(rope);
        for (size_t i = 0; i < divisors.size(); ++i) {
            const double kept = rope.scaling == rope_scaling::yarn ? ramp.kept(i) : 0.0;
            divisors[i] = static_cast<float>(divisors[i] / (kept + (1.0 - kept) / static_cast<double>(rope.factor)));
        }
    }
    return std::ranges::all_of(divisors, [](float divisor) { return divisor == 1.0f; }) ? std::vector<float>()
                                                                                        : divisors;
}

float rope_magnitude(const rope_params & rope) {
    const bool yarn = rope.scaling == rope_scaling::yarn && rope.factor > 1.0f;
    return rope.attn_factor * (yarn ? 1.0f + 0.1f * std::log(rope.factor) : 1.0f);
}

std::vector<double> rope_frequencies(const rope_params & rope) {
    const std::vector<float> divisors = rope_divisors(rope);
    std::vector<double> frequencies;
    for (int64_t i = 0; i < rope.n_rot / 2; ++i) {
        const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(rope.n_rot);
        const double divisor = divisors.empty() ? 1.0 : divisors[static_cast<size_t>(i)];
        frequencies.push_back(std::pow(static_cast<double>(rope.base), exponent) / divisor);
    }
    return frequencies;
}

void rope_angles(const rope_params & rope, int64_t position, std::span<rope_angle> out) {
    const std::vector<double> frequencies = rope_frequencies(rope);
    const double magnitude = rope_magnitude(rope);
    for (size_t i = 0; i < out.size(); ++i) {
        const double angle = static_cast<double>(position) * frequencies[i];
        out[i] = {static_cast<float>(magnitude * std::cos(angle)), static_cast<float>(magnitude * std::sin(angle))};
    }
}

void rope_turn(const rope_params & rope, std::span<const rope_angle> angles, std::span<float> head) {
    const bool neighbours = rope.order == rope_order::normal;
    for (size_t i = 0; i < angles.size(); ++i) {
        float & a = head[neighbours ? 2 * i : i];
        float & b = head[neighbours ? 2 * i + 1 : i + angles.size()];
        const float x = a;
        a = x * angles[i].cos - b * angles[i].sin;
        b = x * angles[i].sin + b * angles[i].cos;
    }
}

}  // namespace livekv
