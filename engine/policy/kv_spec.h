#pragma once

#include <string>

#include "policy/kv_options.h"

namespace livekv {

// The options that a text says: a policy or a preset, and what differs from its defaults, "livekv:kv-bits=4,3:kv-error"
// "small:chunk-size=256" or "guided:preset=reference". Options are called as on the command line, without the dashes in
// front, or as the field is. Throws livekv::error, with the text in front, for what it cannot mean and for an option
// that its policy does not read, whatever its value.
kv_options parse_kv_spec(const std::string & spec);

}  // namespace livekv
