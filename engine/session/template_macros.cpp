#include "session/template_macros.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "session/template_blocks.h"
#include "session/template_functions.h"
#include "session/template_scope.h"

namespace livekv {

namespace {

using jinja::context;
using jinja::statements;
using jinja::value;

std::string name_in(const jinja::statement & node) {
    const auto * id = dynamic_cast<const jinja::identifier *>(&node);
    if (!id) {
        refuse("a macro or a parameter of one has no name");
    }
    return id->val;
}

jinja::call_expression & call_in(jinja::call_statement & node) {
    auto * call = dynamic_cast<jinja::call_expression *>(node.call.get());
    if (!call) {
        refuse("a call block calls nothing");
    }
    return *call;
}

}  // namespace

macro_body::macro_body(std::string own_name, statements && given, statements && block, bool says_caller)
    : name(std::move(own_name)), body(std::move(block)), has_caller(says_caller) {
    for (jinja::statement_ptr & one : given) {
        if (auto * named = dynamic_cast<jinja::keyword_argument_expression *>(one.get())) {
            parameters.push_back({name_in(*named->key), std::move(named->val)});
            continue;
        }
        parameters.push_back({name_in(*one), nullptr});
        if (parameters.size() > 1 && parameters[parameters.size() - 2].otherwise) {
            refuse("the macro '" + name + "' has a parameter without a default behind one with");
        }
    }
}

value macro_body::function() const {
    // Values do not outlive the scopes that their functions belong to, but for those that a template hides from us.
    const auto here = std::weak_ptr<const template_scope>(template_scope::running());
    const auto run = [this, here](const jinja::func_args & arguments) {
        const std::shared_ptr<const template_scope> written_in = here.lock();
        if (!written_in) {
            refuse("the macro '" + name + "' is called where it is no more");
        }
        const entered_scope scope(written_in);
        return call(arguments.get_args(), arguments.ctx);
    };
    return std::make_shared<macro_function>(name, run);
}

// In a scope of its own.
value macro_body::call(const std::vector<value> & arguments, context & ctx) const {
    const given_arguments given(arguments);
    const auto is_named = [](const value & v) { return jinja::is_val<jinja::value_kwarg>(v); };
    const auto first_named = std::ranges::find_if(arguments, is_named);
    if (std::any_of(first_named, arguments.end(), [&](const value & v) { return !is_named(v); }) ||
        given.in_order.size() + given.by_name.size() != arguments.size()) {
        refuse("the macro '" + name + "' is given an argument twice, or one without a name behind one with");
    }
    if (given.in_order.size() > parameters.size()) {
        refuse("the macro '" + name + "' takes not more than " + std::to_string(parameters.size()) + " arguments");
    }
    template_scope & scope = *template_scope::running();
    std::map<std::string, value> by_name = given.by_name;
    const auto take = [&](const std::string & wanted) {
        const auto named = by_name.extract(wanted);
        return named ? named.mapped() : nullptr;
    };
    std::vector<const parameter *> missing;
    bool takes_caller = has_caller;
    for (size_t i = 0; i < parameters.size(); ++i) {
        const bool is_placed = i < given.in_order.size();
        const value v = is_placed ? given.in_order[i] : take(parameters[i].name);
        // What is missing hides others of its name, while what stands for it is found too.
        scope.set(parameters[i].name, v ? v : jinja::mk_val<jinja::value_undefined>(parameters[i].name));
        if (!v) {
            missing.push_back(&parameters[i]);
        }
        takes_caller = takes_caller && parameters[i].name != "caller";
    }
    if (takes_caller) {
        const value v = take("caller");
        scope.set("caller", v ? v : jinja::mk_val<jinja::value_undefined>("caller"));
    }
    if (!by_name.empty()) {
        refuse("the macro '" + name + "' takes no argument '" + by_name.begin()->first + "'");
    }
    for (const parameter * one : missing) {
        if (one->otherwise) {
            scope.set(one->name, one->otherwise->execute(ctx));
        }
    }
    try {
        return text_value(written_by(body, ctx));
    } catch (const loop_left &) {
        refuse("the macro '" + name + "' leaves a loop that it is not in");
    }
}

scoped_macro::scoped_macro(jinja::macro_statement & node, bool says_caller)
    : macro(name_in(*node.name), std::move(node.args), std::move(node.body), says_caller) {}

value scoped_macro::execute_impl(context &) const {
    template_scope::running()->set(macro.name, macro.function());
    return jinja::mk_val<jinja::value_undefined>();
}

scoped_call::scoped_call(jinja::call_statement & node, bool says_caller)
    : caller("caller", std::move(node.caller_args), std::move(node.body), says_caller),
      callee(std::move(call_in(node).callee)),
      arguments(std::move(call_in(node).args)) {}

value scoped_call::execute_impl(context & ctx) const {
    const value f = callee->execute(ctx);
    if (!dynamic_cast<const macro_function *>(f.get())) {
        refuse("a call block calls what is no macro");
    }
    jinja::func_args given(ctx);
    for (const jinja::statement_ptr & argument : arguments) {
        given.push_back(argument->execute(ctx));
    }
    given.push_back(jinja::mk_val<jinja::value_kwarg>("caller", caller.function()));
    return f->invoke(given);
}

}  // namespace livekv
