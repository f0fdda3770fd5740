#pragma once

#include <jinja/runtime.h>

namespace livekv {

// Has every part of a template draw on the budget of its run (template_budget.h), puts guards around the operations
// whose results can be far larger than what they are given, or that end the process for what they are given, and nodes
// that do as jinja2 does in the place of those that do not.
void put_on_budget(jinja::program & program);

}  // namespace livekv
