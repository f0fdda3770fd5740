#pragma once

#include "kernels/attention.h"

namespace livekv {

// The same attention in double precision over what the blocks stand for, written to be read: the fast kernels are
// tested against it. out as in args.
void attention_reference(const attention_args & args);

}  // namespace livekv
