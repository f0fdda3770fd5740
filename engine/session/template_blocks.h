#pragma once

#include <jinja/runtime.h>

#include <string>
#include <vector>

namespace livekv {

// Statements that hold others, and those that set names, in scopes as jinja2 has them (template_scope.h). They stand
// for the engine's own.

// What the statements write.
jinja::string written_by(const jinja::statements & body, jinja::context & ctx);

// loop.cycle, of what stands for loop.
jinja::value cycle_of(const jinja::value & loop);

// What {% break %} and {% continue %} throw; on its way to the loop it gathers what was written before.
struct loop_left final : jinja::break_statement::signal {
    explicit loop_left(bool next) : goes_on(next) {}
    bool goes_on;
    jinja::string text;
};

struct leaving final : jinja::statement {
    explicit leaving(bool next) : goes_on(next) {}
    jinja::value execute_impl(jinja::context & ctx) const override;
    bool goes_on;
};

struct scoped_if final : jinja::statement {
    explicit scoped_if(jinja::if_statement & node);
    jinja::value execute_impl(jinja::context & ctx) const override;
    jinja::statement_ptr test;
    jinja::statements body;
    jinja::statements otherwise;
};

struct scoped_for final : jinja::statement {
    explicit scoped_for(jinja::for_statement & node);
    jinja::value execute_impl(jinja::context & ctx) const override;
    std::vector<std::string> names;
    bool unpacks = false;
    jinja::statement_ptr iterable;
    jinja::statement_ptr test;  // null: all
    jinja::statements body;
    jinja::statements otherwise;
};

// The text that a block writes: of {% set x %}, {% filter f %} and {% generation %}.
struct scoped_text final : jinja::expression {
    explicit scoped_text(jinja::statements && block) : body(std::move(block)) {}
    jinja::value execute_impl(jinja::context & ctx) const override;
    jinja::statements body;
};

// {% set a = value %} and {% set a, b = value %}.
struct scoped_set final : jinja::statement {
    scoped_set(const jinja::statement & target, jinja::statement_ptr && node);
    jinja::value execute_impl(jinja::context & ctx) const override;
    std::vector<std::string> names;
    bool unpacks = false;
    jinja::statement_ptr val;
};

}  // namespace livekv
