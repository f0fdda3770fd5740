#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace livekv {

// Which two channels of a head are turned together: neighbours, 2i and 2i + 1, or i and i + n_rot/2.
enum class rope_order { normal, neox };

// How positions beyond those of the training are reached.
enum class rope_scaling { none, linear, yarn };

// Rotary positions of one layer: pair i of n_rot/2 is turned by position * frequency(i) radians. The one definition of
// these angles: the graph turns by them, and so does whatever keeps keys before their turn.
struct rope_params {
    rope_order order = rope_order::normal;
    int64_t n_rot = 0;      // channels of a head that are turned, the first ones; even
    float base = 10000.0f;  // frequency(i) = base^(-2i/n_rot), before what follows
    rope_scaling scaling = rope_scaling::none;
    float factor = 1.0f;          // linear: of all wavelengths; yarn: of those that the training did not see whole
    int64_t n_ctx_orig = 0;       // yarn: tokens of that training
    float beta_fast = 32.0f;      // yarn: waves with more turns than this in n_ctx_orig stay as they are
    float beta_slow = 1.0f;       // yarn: those with fewer are stretched by the whole factor
    float attn_factor = 1.0f;     // of cos and sin, beside YaRN's own
    std::vector<float> divisors;  // f32 [n_rot/2], of frequencies, beside scaling (llama3, longrope); empty: all 1

    bool operator==(const rope_params &) const = default;
};

// The angle of each pair for one token on, in radians: [n_rot/2].
std::vector<double> rope_frequencies(const rope_params & rope);

// What base^(-2i/n_rot) is divided by: f32 [n_rot/2]; empty when that is 1 throughout.
std::vector<float> rope_divisors(const rope_params & rope);

// What cos and sin are multiplied with.
float rope_magnitude(const rope_params & rope);

// A pair's turn at a position: its cos and sin, times the magnitude.
struct rope_angle {
    float cos;
    float sin;
};

// The turns of all pairs at a position, which may be negative: turned back. out: [n_rot/2].
void rope_angles(const rope_params & rope, int64_t position, std::span<rope_angle> out);

// Turns one head's channels f32 [head_dim] by angles [n_rot/2]; those behind n_rot stay.
void rope_turn(const rope_params & rope, std::span<const rope_angle> angles, std::span<float> head);

}  // namespace livekv
