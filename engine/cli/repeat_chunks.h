#pragma once

#include "livekv.h"

namespace livekv {

// Fills the session with copies of its sealed chunks until it holds at least n_tokens: a context that means nothing, to
// measure speed and memory at lengths that would take too long to compute. Throws livekv::error where the cache is not
// livekv's, the sequence does not end with a chunk, or nothing of it is sealed.
void repeat_chunks(session & s, int64_t n_tokens);

}  // namespace livekv
