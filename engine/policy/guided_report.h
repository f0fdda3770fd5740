#pragma once

#include "policy/chunked.h"
#include "store/kv_report.h"

namespace livekv {

// What a layer of policy guided made of its prompt's tokens so far, from the state after its newest chunk. first: the
// sequence's first layer, into which all come.
kv_guided_layer guided_report(const chunk_plan & plan, const kv_layer & layer, const kv_layer & first);

}  // namespace livekv
