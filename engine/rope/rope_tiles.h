#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "rope/rope.h"

namespace livekv {

constexpr int32_t rope_tile = 32;

// What kernels read to turn the keys of consecutive positions: a pair's angle at position p + t, t < rope_tile, is that
// of p, composed of p's digits of base rope_tile, and that of t. Plain data; rope_tiles keeps it alive.
struct rope_turns {
    const rope_params * params = nullptr;
    bool neighbours = false;  // pair i is channels 2i and 2i + 1, else i and i + n_pairs
    int32_t n_pairs = 0;
    float magnitude = 1.0f;             // of all turns, and of none below
    const float * digit_cos = nullptr;  // [n_digits, rope_tile, n_pairs]: of digit * rope_tile^i
    const float * digit_sin = nullptr;
    const float * tile_cos = nullptr;  // [n_pairs, rope_tile]: of t
    const float * tile_sin = nullptr;
};

// The tables of one layer's rotary positions, whatever the context.
class rope_tiles {
  public:
    explicit rope_tiles(const rope_params & params);
    rope_tiles(rope_tiles &&) = delete;  // turns refer to it

    const rope_turns & turns() const { return turns_; }

  private:
    rope_params params_;
    std::vector<float> digit_cos_;
    std::vector<float> digit_sin_;
    std::vector<float> tile_cos_;
    std::vector<float> tile_sin_;
    rope_turns turns_;
};

// Turns a tile of keys, f32 [channels, rope_tile], the first of which has this position.
void turn_tile(const rope_turns & turns, int64_t position, std::span<float> tile);

}  // namespace livekv
