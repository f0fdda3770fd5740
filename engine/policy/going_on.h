#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "policy/guided_seal.h"

namespace livekv {

// The tokens of a prompt that come in one pass and, of policy guided with propagate layers, go on from layer to layer:
// all into the first, and from there the best ones of each layer that lets tokens go. Tokens are named by their places
// in the pass, in ascending order. How many go on is known from the beginning, which ones when their layer chooses.
class going_on {
  public:
    // n tokens from position first on, of a prompt of n_prompt; logits of the last n_outputs are wanted. Of one, it
    // goes on to the last layer. Of more, all tokens are computed in all layers, and leave the caches alone.
    going_on(const guided_plan & of, int64_t n_prompt, int64_t first, int64_t n, int64_t n_outputs);

    // Which tokens layer il computes, and of these those that come in: its cache and its scores have no others.
    std::span<const int32_t> computed(int64_t il) const { return held_[gathers_ ? stage(il) : 0]; }
    std::span<const int32_t> come_in(int64_t il) const { return held_[stage(il)]; }
    // Whether it lets tokens go, and those that stay in its cache.
    bool lets_go(int64_t il) const { return stage(il + 1) != stage(il); }
    std::span<const int32_t> stay(int64_t il) const { return held_[stage(il + 1)]; }

    // Layer il, which lets tokens go, has their weights on the guide. weights: tail_weights of the open chunk, the
    // pass's tokens the last ones; those that do not stay are marked. before: of the chunks before it. Throws
    // std::bad_alloc.
    void choose(int64_t il, std::span<float> weights, const guided_state & before);

  private:
    static constexpr size_t n_stages = 4;  // of layers that the same tokens come into: three shares are applied

    size_t stage(int64_t il) const;

    guided_plan of_;
    int64_t n_prompt_;
    int64_t first_;
    bool last_too_;
    bool gathers_;
    std::array<int64_t, n_stages - 1> ends_;  // the layers that let tokens go, ascending; at first n_layer: none
    std::array<std::vector<int32_t>, n_stages> held_;
};

}  // namespace livekv
