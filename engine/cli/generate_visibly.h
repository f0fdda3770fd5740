#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "livekv.h"

namespace livekv {

// Generates with the prefill's progress on stderr and the text on stdout as it comes; Ctrl-C (catch_interrupt) ends it.
// on_text, if given, gets the text too.
generate_result generate_visibly(session & s, const std::vector<int32_t> & prompt, const generate_params & params,
                                 const std::function<void(std::string_view)> & on_text = {});

}  // namespace livekv
