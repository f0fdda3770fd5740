#include "session/template_blocks.h"

#include <optional>
#include <utility>

#include "session/template_functions.h"
#include "session/template_scope.h"

namespace livekv {

namespace {

using jinja::context;
using jinja::statement_ptr;
using jinja::statements;
using jinja::value;

value nothing() {
    return jinja::mk_val<jinja::value_undefined>();
}

// The name, or the names of a tuple, that target is.
std::vector<std::string> names_of(const jinja::statement & target) {
    std::vector<std::string> names;
    const auto add = [&](const jinja::statement & one) {
        const auto * id = dynamic_cast<const jinja::identifier *>(&one);
        if (!id) {
            refuse("it sets what is no name");
        }
        names.push_back(id->val);
    };
    if (const auto * tuple = dynamic_cast<const jinja::tuple_literal *>(&target)) {
        for (const statement_ptr & one : tuple->val) {
            add(*one);
        }
    } else {
        add(target);
    }
    return names;
}

bool is_tuple(const jinja::statement & target) {
    return dynamic_cast<const jinja::tuple_literal *>(&target) != nullptr;
}

void set_names(const std::vector<std::string> & names, bool unpacks, const value & v) {
    template_scope & scope = *template_scope::running();
    if (!unpacks) {
        scope.set(names[0], v);
        return;
    }
    if (!jinja::is_val<jinja::value_array>(v)) {
        refuse("it unpacks " + v->type());
    }
    if (v->val_arr.size() != names.size()) {
        refuse("it unpacks " + std::to_string(v->val_arr.size()) + " values to " + std::to_string(names.size()));
    }
    for (size_t i = 0; i < names.size(); ++i) {
        scope.set(names[i], v->val_arr[i]);
    }
}

value loop_at(const std::vector<value> & items, size_t i) {
    const auto loop = jinja::mk_val<jinja::value_object>();
    const auto number = [](size_t n) { return jinja::mk_val<jinja::value_int>(static_cast<int64_t>(n)); };
    loop->has_builtins = false;  // guarded_read knows it by that
    loop->insert("index", number(i + 1));
    loop->insert("index0", number(i));
    loop->insert("revindex", number(items.size() - i));
    loop->insert("revindex0", number(items.size() - i - 1));
    loop->insert("first", jinja::mk_val<jinja::value_bool>(i == 0));
    loop->insert("last", jinja::mk_val<jinja::value_bool>(i + 1 == items.size()));
    loop->insert("length", number(items.size()));
    loop->insert("previtem", i > 0 ? items[i - 1] : nothing());
    loop->insert("nextitem", i + 1 < items.size() ? items[i + 1] : nothing());
    return loop;
}

}  // namespace

jinja::string written_by(const statements & body, context & ctx) {
    jinja::string text;
    try {
        for (const statement_ptr & node : body) {
            append_text(text, node->execute(ctx)->val_str);
        }
    } catch (loop_left & left) {
        append_text(text, left.text);
        left.text = std::move(text);
        throw;
    }
    return text;
}

value cycle_of(const value & loop) {
    const auto turn = static_cast<size_t>(loop->at("index0")->val_int);
    return jinja::mk_val<jinja::value_func>("cycle", [turn](const jinja::func_args & arguments) {
        if (arguments.count() == 0) {
            refuse("loop.cycle is given nothing");
        }
        return arguments.get_pos(turn % arguments.count());
    });
}

value leaving::execute_impl(context &) const {
    throw loop_left(goes_on);
}

scoped_if::scoped_if(jinja::if_statement & node)
    : test(std::move(node.test)), body(std::move(node.body)), otherwise(std::move(node.alternate)) {}

value scoped_if::execute_impl(context & ctx) const {
    return text_value(written_by(test->execute(ctx)->as_bool() ? body : otherwise, ctx));
}

scoped_for::scoped_for(jinja::for_statement & node)
    : names(names_of(*node.loopvar)),
      unpacks(is_tuple(*node.loopvar)),
      iterable(std::move(node.iterable)),
      body(std::move(node.body)),
      otherwise(std::move(node.default_block)) {
    if (auto * some = dynamic_cast<jinja::select_expression *>(iterable.get())) {
        test = std::move(some->test);
        statement_ptr all = std::move(some->lhs);
        iterable = std::move(all);
    }
}

value scoped_for::execute_impl(context & ctx) const {
    const std::shared_ptr<template_scope> here = template_scope::running();
    const value over = iterable->execute(ctx);
    if (jinja::is_val<jinja::value_string>(over)) {
        refuse("it loops over a text");
    }
    std::vector<value> items = items_of(over, "a loop");
    if (test) {
        std::erase_if(items, [&](const value & item) {
            const entered_scope scope(here);
            set_names(names, unpacks, item);
            return !test->execute(ctx)->as_bool();
        });
    }
    jinja::string text;
    bool has_ended_one = false;  // as in jinja2: turns that are left early do not count
    for (size_t i = 0; i < items.size(); ++i) {
        const entered_scope scope(here);
        template_scope::running()->set("loop", loop_at(items, i));
        set_names(names, unpacks, items[i]);
        try {
            append_text(text, written_by(body, ctx));
        } catch (const loop_left & left) {
            append_text(text, left.text);
            if (left.goes_on) {
                continue;
            }
            break;
        }
        has_ended_one = true;
    }
    if (!has_ended_one) {
        const entered_scope scope(here);
        append_text(text, written_by(otherwise, ctx));
    }
    return text_value(std::move(text));
}

value scoped_text::execute_impl(context & ctx) const {
    const entered_scope scope(template_scope::running());
    try {
        return text_value(written_by(body, ctx));
    } catch (loop_left & left) {
        left.text = {};  // there is no such text then
        throw;
    }
}

scoped_set::scoped_set(const jinja::statement & target, statement_ptr && node)
    : names(names_of(target)), unpacks(is_tuple(target)), val(std::move(node)) {}

value scoped_set::execute_impl(context & ctx) const {
    set_names(names, unpacks, val->execute(ctx));
    return nothing();
}

}  // namespace livekv
