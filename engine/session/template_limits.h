#pragma once

namespace jinja {
struct context;
struct lexer_result;
}  // namespace jinja

namespace livekv {

// A template comes from a file that nobody vouches for, and the engine recurses as deeply as a template nests. Throws
// livekv::error for tags and blocks that nest beyond what published templates need (by far), and has every macro ask
// stack_guard, so that calls without end are an error and not the end of the process.
void limit_nesting(jinja::lexer_result & tokens);

// Puts into a context what limit_nesting has macros ask; stack is counted from here on.
void add_stack_guard(jinja::context & context);

}  // namespace livekv
