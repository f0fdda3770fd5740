#pragma once

#include "cli/cli_options.h"

namespace livekv {

// A chat in the model's own template: each line of stdin a user message, each answer to stdout. Empty lines and lines
// that are not UTF-8 are skipped. Ends with stdin or when the context is full. Returns the last turn's result.
generate_result converse(session & s, const cli_options & options);

}  // namespace livekv
