#pragma once

#include <jinja/runtime.h>

#include <string>
#include <utility>
#include <vector>

namespace livekv {

// Nodes that stand in a template's program for the engine's own where an operation can make far more than it is given,
// or end the process for what it is given. Each looks at the operands, and throws or lets the engine's node work on
// them.

// Throws where a function must not be called so. input: what it is bound to, or null.
void guard_function(const std::string & name, const jinja::value & input, const std::vector<jinja::value> & arguments);

// A value that is there already.
struct known_value final : jinja::expression {
    explicit known_value(jinja::value known);
    jinja::value execute_impl(jinja::context & ctx) const override;
    jinja::value v;
};

// A text so many times; and where Python's operation is another than the engine's.
struct guarded_binary final : jinja::expression {
    explicit guarded_binary(jinja::binary_expression & node);
    jinja::value execute_impl(jinja::context & ctx) const override;
    jinja::token op;
    jinja::statement_ptr left;
    jinja::statement_ptr right;
};

// a < b == c: each with the next, as long as it is so.
struct chained_comparison final : jinja::expression {
    explicit chained_comparison(jinja::statement_ptr && begin) : first(std::move(begin)) {}
    jinja::value execute_impl(jinja::context & ctx) const override;
    jinja::statement_ptr first;
    std::vector<std::pair<jinja::token, jinja::statement_ptr>> rest;
};

// object.name, object[property] and slices: texts by characters, and nothing of what is undefined.
struct guarded_read final : jinja::expression {
    explicit guarded_read(jinja::member_expression & node);
    jinja::value execute_impl(jinja::context & ctx) const override;
    jinja::statement_ptr object;
    jinja::statement_ptr property;  // where it is computed
    std::string name;
    jinja::statement_ptr start;
    jinja::statement_ptr stop;
    jinja::statement_ptr step;
    bool computed;
    bool is_slice = false;
};

// Filters and functions: guard_function says which; template_functions.h has those that are done here.
struct guarded_filter final : jinja::expression {
    guarded_filter(jinja::statement_ptr && input, jinja::statement_ptr && filter);
    jinja::value execute_impl(jinja::context & ctx) const override;
    jinja::statement_ptr operand;
    std::string name;
    bool is_call = false;
    jinja::statements arguments;
};

struct guarded_call final : jinja::expression {
    explicit guarded_call(jinja::call_expression & node);
    jinja::value execute_impl(jinja::context & ctx) const override;
    jinja::statement_ptr callee;
    jinja::statements arguments;
};

// Division by zero, and tests that the engine answers otherwise than Python.
struct guarded_test final : jinja::expression {
    explicit guarded_test(jinja::test_expression & node);
    jinja::value execute_impl(jinja::context & ctx) const override;
    jinja::statement_ptr operand;
    bool negate;
    std::string name;
    jinja::statements arguments;
};

// {% set object.name = value %}: an object in itself.
struct guarded_member final : jinja::statement {
    guarded_member(jinja::member_expression & target, jinja::statement_ptr && node);
    jinja::value execute_impl(jinja::context & ctx) const override;
    jinja::statement_ptr object;
    std::string name;
    jinja::statement_ptr val;
};

}  // namespace livekv
