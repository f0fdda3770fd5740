#pragma once

#include <jinja/runtime.h>

#include <optional>
#include <string>
#include <vector>

namespace livekv {

// What jinja2 answers where the engine's own test of that name answers otherwise: a truth value is a number in Python
// and none in the engine, and what compares two values is the operator of that meaning; none: the engine's test is
// right. arguments: behind the name, not the value itself. Throws where the engine's test must not be asked.
std::optional<bool> own_test(const std::string & name, const jinja::value & v,
                             const std::vector<jinja::value> & arguments, jinja::context & ctx);

}  // namespace livekv
