#pragma once

#include "options.h"
#include "policy/kv_options.h"
#include "store/kv_file.h"

namespace livekv {

// Options as a saved sequence carries them: those of the command line that shape the cache.
kv_texts texts_of(kv_options options);

// What a file of this version says. Throws livekv::error for a value an option cannot have, one that is missing, and
// options this livekv does not have, unless they are off.
kv_options options_from(const kv_texts & texts, uint32_t version);

// The same for any table: an option that came later means what it was then (option_table::since).
void read_saved_options(const option_table & table, kv_texts texts, uint32_t version);

}  // namespace livekv
