#pragma once

#include <array>
#include <climits>
#include <string>
#include <vector>

#include "options.h"
#include "policy/kv_options.h"

namespace livekv {

// option::since of an option that is in no file: its policy's caches are not saved.
constexpr int in_no_file = INT_MAX;

// Declares every cache option, as fields of o, with its range and help, each by its name in texts behind `dashes`: "--"
// on a command line, "" elsewhere. with_policy: the policy too, as "kv".
void declare_kv_options(option_table & table, kv_options & o, const std::string & dashes, bool with_policy);

// What texts call a field: "key-group" for "key_group", "kv" for "policy".
std::string kv_option_name(const std::string & field);

// "4" or "4,3". Throws livekv::error.
kv_bits parse_kv_bits(const std::string & text);

// "8,4,2". Throws livekv::error.
std::array<int64_t, 3> parse_kv_levels(const std::string & text);

// Presets: named sets of all fields that o's policy reads. apply_kv_preset throws kv_option_error for a name that is
// none, or none of the policy's.
const std::vector<std::string> & kv_preset_names();
void apply_kv_preset(const std::string & name, kv_options & o);

}  // namespace livekv
