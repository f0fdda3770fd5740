#pragma once

#include <jinja/runtime.h>

#include <memory>
#include <set>
#include <string>
#include <utility>

#include "session/template_budget.h"
#include "session/template_functions.h"
#include "session/template_scope.h"
#include "session/template_text.h"

namespace livekv {

// Nodes around those of a template, or in their place, that take from the budget of its run.

// What stands in a template and is executed: each is a step.
struct counted : jinja::expression {
    explicit counted(jinja::statement_ptr && node) : inner(std::move(node)) { pos = inner->pos; }
    jinja::value execute_impl(jinja::context & ctx) const override {
        template_budget::running().step();
        return inner->execute(ctx);
    }
    jinja::statement_ptr inner;
};

// What jinja2 and transformers have besides.
inline const std::set<std::string> not_here = {"self",   "super",     "varargs",   "kwargs",    "cycler",    "joiner",
                                               "lipsum", "pad_token", "sep_token", "cls_token", "mask_token"};

// A name that the template sets, one that it is given, or one of the engine's functions. The engine's own node copies
// the table of these each time.
struct counted_name final : jinja::expression {
    explicit counted_name(std::string variable) : name(std::move(variable)) {}
    jinja::value execute_impl(jinja::context & ctx) const override {
        template_budget::running().step();
        if (const jinja::value * set = template_scope::running()->find(name)) {
            return *set;
        }
        jinja::value v = ctx.get_val(name);
        const auto & functions = jinja::global_builtins();
        const auto function = v->is_undefined() ? functions.find(name) : functions.end();
        if (v->is_undefined() && not_here.contains(name)) {
            refuse("it reads '" + name + "', which there is none of here");
        }
        return function == functions.end() ? v : std::make_shared<true_function>(name, function->second);
    }
    std::string name;
};

// A value that did not exist before, or a text on its way into what is written.
struct counted_result final : counted {
    using counted::counted;
    jinja::value execute_impl(jinja::context & ctx) const override {
        jinja::value v = counted::execute_impl(ctx);
        template_budget::running().made(v);
        return v;
    }
};

// What stands between {{ and }}, as Python writes it.
struct written final : counted {
    using counted::counted;
    jinja::value execute_impl(jinja::context & ctx) const override {
        jinja::value v = counted::execute_impl(ctx);
        return jinja::is_val<jinja::value_string>(v) ? v : text_value(python_str(v));
    }
};

// Part of a value: a text is copied, a list's items are shared.
struct counted_slice final : counted {
    using counted::counted;
    jinja::value execute_impl(jinja::context & ctx) const override {
        jinja::value v = counted::execute_impl(ctx);
        template_budget & budget = template_budget::running();
        budget.step(v->val_arr.size() / 16);
        budget.took(v->val_str.length());
        return v;
    }
};

// What a loop runs over. Each item costs what a scope and a loop object do, whatever is in the loop.
struct counted_items final : counted {
    using counted::counted;
    jinja::value execute_impl(jinja::context & ctx) const override {
        jinja::value v = counted::execute_impl(ctx);
        constexpr size_t item_steps = 8;
        template_budget::running().step(item_steps * (v->val_arr.size() + v->val_obj.size()));
        return v;
    }
};

}  // namespace livekv
