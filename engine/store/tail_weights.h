#pragma once

// What kv_layer::tail_weights say of a token of the tail: a number from 0 to 1 is the weight that it, of a prompt,
// gives to the guide (policy guided).

#include <algorithm>

namespace livekv::tail_weight {

constexpr float generated = -1.0f;  // text that has none
constexpr float absent = -2.0f;     // the token did not come into this layer, and has no rows in it
// This layer has dropped it, so it has no rows; its weight counts all the same: dropped_base less that.
constexpr float dropped_base = -3.0f;
constexpr float least = -4.0f;

// Whether the token has rows.
inline bool is_held(float w) {
    return w > absent;
}

// Whether it is a prompt's that came into the layer, and then its weight.
inline bool came_in(float w) {
    return w >= 0.0f || w <= dropped_base;
}
inline float of(float w) {
    return w >= 0.0f ? w : std::clamp(dropped_base - w, 0.0f, 1.0f);
}

// The same of a token that is dropped now.
inline float dropped(float w) {
    return dropped_base - w;
}

inline bool is_one(float w) {
    return (w >= 0.0f && w <= 1.0f) || w == generated || w == absent || (w >= least && w <= dropped_base);
}

}  // namespace livekv::tail_weight
