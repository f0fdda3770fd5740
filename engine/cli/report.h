#pragma once

#include <string>

#include "livekv.h"

namespace livekv {

// The end-of-run summary, a few lines for people.
std::string summary_text(const session & s, const generate_result & result);

// The same and more for programs: one JSON object. seed: the sampling seed in use; params: as the run had them.
std::string stats_json(const session & s, const generate_params & params, const generate_result & result);

}  // namespace livekv
