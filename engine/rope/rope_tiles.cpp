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

}  // namespace livekv
