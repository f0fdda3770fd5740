#pragma once

#include <cstdint>
#include <span>

#include "kernels/guide_weights.h"
#include "run/layer_step.h"

namespace livekv {

// What a pass does in a layer of policy guided between attention and sealing.

// The guide's keys as the pass's tokens see them, as far as they are stored already or come with it. Throws
// std::bad_alloc.
guide_keys guide_of(const layer_step & step);

// Keeps token i's weight on the guide for when its chunk is sealed. queries: of the pass's tokens; scratch: as
// weight_given_to_guide has it. Different tokens may be weighed at the same time.
void weigh_token(const layer_step & step, const guided_queries & queries, int64_t i, const guide_keys & guide,
                 std::span<float> scratch);

}  // namespace livekv
