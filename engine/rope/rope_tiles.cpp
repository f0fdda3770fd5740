#include "rope/rope_tiles.h"

#include <cmath>

namespace livekv {

namespace {

constexpr int32_t n_digits = 7;  // of any position in 32 bits

}  // namespace

rope_tiles::rope_tiles(const rope_params & params) : params_(params) {
    const std::vector<double> frequencies = rope_frequencies(params_);
    double unit = 1.0;
    for (int32_t i = 0; i < n_digits; ++i, unit *= rope_tile) {
        for (int32_t digit = 0; digit < rope_tile; ++digit) {
            for (const double frequency : frequencies) {
                digit_cos_.push_back(static_cast<float>(std::cos(digit * unit * frequency)));
                digit_sin_.push_back(static_cast<float>(std::sin(digit * unit * frequency)));
            }
        }
    }
    for (const double frequency : frequencies) {
        for (int32_t t = 0; t < rope_tile; ++t) {
            tile_cos_.push_back(static_cast<float>(std::cos(t * frequency)));
            tile_sin_.push_back(static_cast<float>(std::sin(t * frequency)));
        }
    }
    turns_.params = &params_;
    turns_.neighbours = params_.order == rope_order::normal;
    turns_.n_pairs = static_cast<int32_t>(frequencies.size());
    turns_.magnitude = rope_magnitude(params_);
    turns_.digit_cos = digit_cos_.data();
    turns_.digit_sin = digit_sin_.data();
    turns_.tile_cos = tile_cos_.data();
    turns_.tile_sin = tile_sin_.data();
}

void turn_tile(const rope_turns & turns, int64_t position, std::span<float> tile) {
    const auto n_pairs = static_cast<size_t>(turns.n_pairs);
    constexpr auto n = static_cast<size_t>(rope_tile);
    for (size_t i = 0; i < n_pairs; ++i) {
        float base_cos = turns.magnitude;
        float base_sin = 0.0f;
        size_t at = i;  // in the digit's table
        for (int64_t left = position; left > 0; left /= rope_tile, at += n * n_pairs) {
            const size_t of_digit = at + static_cast<size_t>(left % rope_tile) * n_pairs;
            const float x = base_cos;
            base_cos = x * turns.digit_cos[of_digit] - base_sin * turns.digit_sin[of_digit];
            base_sin = x * turns.digit_sin[of_digit] + base_sin * turns.digit_cos[of_digit];
        }
        float * const a = tile.data() + (turns.neighbours ? 2 * i : i) * n;
        float * const b = a + (turns.neighbours ? 1 : n_pairs) * n;
        for (size_t t = 0; t < n; ++t) {
            const float cos = base_cos * turns.tile_cos[i * n + t] - base_sin * turns.tile_sin[i * n + t];
            const float sin = base_cos * turns.tile_sin[i * n + t] + base_sin * turns.tile_cos[i * n + t];
            const float x = a[t];
            a[t] = x * cos - b[t] * sin;
            b[t] = x * sin + b[t] * cos;
        }
    }
}

}  // namespace livekv
