#pragma once

namespace jinja {
struct lexer_result;
}  // namespace jinja

namespace livekv {

// A template comes from a file that nobody vouches for, and the engine's parser recurses as deeply as a template nests.
// Throws livekv::error for tags and blocks that nest beyond what published templates need (by far). What a template
// does when it runs: template_budget.h.
void limit_nesting(const jinja::lexer_result & tokens);

}  // namespace livekv
