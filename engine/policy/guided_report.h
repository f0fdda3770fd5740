#pragma once

#include "policy/chunked.h"
#include "store/kv_report.h"

namespace livekv {

// What a layer of policy guided made of its prompt's tokens so far, from the state after its newest chunk.
kv_guided_layer guided_report(const chunk_plan & plan, const kv_layer & layer);

}  // namespace livekv
