#pragma once

#include <string>
#include <vector>

#include "policy/kv_options.h"
#include "options.h"

namespace livekv {

// Declares every cache option, as fields of o, with its range and help. policy_is_list: the caller declares --kv
// itself, as a list of policies to compare.
void declare_kv_options(option_table & table, kv_options & o, bool policy_is_list);

// "--key-group" for "key_group".
std::string kv_flag_of(const std::string & field);

// Throws usage_error, in flags, for what o.check() refuses and for options that were given though none of these
// policies reads them.
void check_given_kv_options(const option_table & table, const kv_options & o, const std::vector<std::string> & policies);

// Presets: named sets of all fields of the livekv policy.
const std::vector<std::string> & kv_preset_names();
void apply_kv_preset(const std::string & name, kv_options & o);

}  // namespace livekv
