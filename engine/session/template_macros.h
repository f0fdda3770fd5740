#pragma once

#include <jinja/runtime.h>

#include <string>
#include <vector>

#include "session/template_functions.h"

namespace livekv {

// Macros, called as jinja2 calls them: parameters by place or by name, those that are not given take what stands for
// them, which may name other parameters, or are undefined. They see the names of where they are written, not of where
// they are called.

// A value_func of these is a macro, or the caller() of a {% call %}.
struct macro_function final : true_function {
    using true_function::true_function;
};

struct macro_body {
    // Throws jinja::raised_exception for parameters that are no names, and for one without a default behind one with.
    macro_body(std::string own_name, jinja::statements && parameters, jinja::statements && block, bool says_caller);

    // In the running scope; it must be called while that lives.
    jinja::value function() const;

    struct parameter {
        std::string name;
        jinja::statement_ptr otherwise;  // null: nothing
    };
    std::string name;
    std::vector<parameter> parameters;
    jinja::statements body;
    bool has_caller;  // it reads what a {% call %} hands over

  private:
    jinja::value call(const std::vector<jinja::value> & arguments, jinja::context & ctx) const;
};

struct scoped_macro final : jinja::statement {
    scoped_macro(jinja::macro_statement & node, bool says_caller);
    jinja::value execute_impl(jinja::context & ctx) const override;
    macro_body macro;
};

// {% call(a) f() %}: f must be a macro.
struct scoped_call final : jinja::statement {
    scoped_call(jinja::call_statement & node, bool says_caller);
    jinja::value execute_impl(jinja::context & ctx) const override;
    macro_body caller;
    jinja::statement_ptr callee;
    jinja::statements arguments;
};

}  // namespace livekv
