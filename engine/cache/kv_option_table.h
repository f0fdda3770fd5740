#pragma once

#include <string>
#include <vector>

#include "cache/kv_options.h"
#include "options.h"

namespace livekv {

// Declares every option of the caches: name, default, range, help. The command line, the bindings and a run's metadata
// derive from this. policy_is_list: the tool compares several caches and declares its own --kv.
void declare_kv_options(option_table & table, kv_options & options, bool policy_is_list);

// What a preset sets; presets by name, in the order help shows them.
const std::vector<std::string> & kv_preset_names();
void apply_kv_preset(const std::string & name, kv_options & options);

}  // namespace livekv
