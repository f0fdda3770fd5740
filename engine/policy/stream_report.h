#pragma once

#include "policy/chunked.h"
#include "store/kv_report.h"

namespace livekv {

// What kvstream's running maxima have become in a layer in the host's memory. Flags are kept nowhere: they are told
// from the maxima before and after a chunk, so that one within 1e-5 of a threshold may be told wrong.
kv_stream_layer stream_report(const chunk_plan & plan, const kv_layer & layer);

}  // namespace livekv
