#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "rope/rope.h"

namespace livekv {

// Turns keys that are after RoPE to a position `by` further on, which may be negative.
class key_shift {
  public:
    key_shift(const rope_params & rope, int64_t by) : rope_(rope), angles_(static_cast<size_t>(rope.n_rot / 2)) {
        rope_.attn_factor /= rope_magnitude(rope);  // keys have their magnitude already
        rope_angles(rope_, by, angles_);
    }

    // One head's channels, f32 [head_dim].
    void apply(std::span<float> head) const { rope_turn(rope_, angles_, head); }

  private:
    rope_params rope_;
    std::vector<rope_angle> angles_;
};

}  // namespace livekv
