#include "session/template_nodes.h"

#include <memory>
#include <set>
#include <string>
#include <utility>

#include "session/template_budget.h"
#include "session/template_functions.h"
#include "session/template_guards.h"
#include "session/template_text.h"

namespace livekv {

namespace {

using jinja::context;
using jinja::statement_ptr;
using jinja::statements;
using jinja::value;

// What stands in a template and is executed: each is a step.
struct counted : jinja::expression {
    explicit counted(statement_ptr && node) : inner(std::move(node)) { pos = inner->pos; }
    value execute_impl(context & ctx) const override {
        template_budget::running().step();
        return inner->execute(ctx);
    }
    statement_ptr inner;
};

// What jinja2 and transformers have besides.
const std::set<std::string> not_here = {"self",   "super",     "varargs",   "kwargs",    "cycler",    "joiner",
                                        "lipsum", "pad_token", "sep_token", "cls_token", "mask_token"};

// A variable, or one of the engine's functions. The engine's own node copies the table of all of them each time.
struct counted_name final : jinja::expression {
    explicit counted_name(std::string variable) : name(std::move(variable)) {}
    value execute_impl(context & ctx) const override {
        template_budget::running().step();
        value v = ctx.get_val(name);
        const auto & functions = jinja::global_builtins();
        const auto function = v->is_undefined() ? functions.find(name) : functions.end();
        if (v->is_undefined() && not_here.contains(name)) {
            refuse("it reads '" + name + "', which there is none of here");
        }
        return function == functions.end() ? v : jinja::mk_val<jinja::value_func>(name, function->second);
    }
    std::string name;
};

// A value that did not exist before, or a text on its way into what is written.
struct counted_result final : counted {
    using counted::counted;
    value execute_impl(context & ctx) const override {
        value v = counted::execute_impl(ctx);
        template_budget::running().made(v);
        return v;
    }
};

// What stands between {{ and }}, as Python writes it.
struct written final : counted {
    using counted::counted;
    value execute_impl(context & ctx) const override {
        value v = counted::execute_impl(ctx);
        return jinja::is_val<jinja::value_string>(v) ? v : text_value(python_str(v));
    }
};

// Part of a value: a text is copied, a list's items are shared.
struct counted_slice final : counted {
    using counted::counted;
    value execute_impl(context & ctx) const override {
        value v = counted::execute_impl(ctx);
        template_budget & budget = template_budget::running();
        budget.step(v->val_arr.size() / 16);
        budget.took(v->val_str.length());
        return v;
    }
};

// What a loop runs over. Each item costs what copying all variables twice does, whatever is in the loop.
struct counted_items final : counted {
    using counted::counted;
    value execute_impl(context & ctx) const override {
        value v = counted::execute_impl(ctx);
        constexpr size_t item_steps = 8;
        template_budget::running().step(item_steps * (v->val_arr.size() + v->val_obj.size()));
        return v;
    }
};

// The text that a block writes.
statement_ptr text_of(statements && body) {
    auto always = std::make_unique<known_value>(jinja::mk_val<jinja::value_bool>(true));
    return std::make_unique<jinja::if_statement>(std::move(always), std::move(body), statements());
}

template <typename Node, typename... Arguments>
void replace(statement_ptr & node, Arguments &&... arguments) {
    const size_t pos = node->pos;
    statement_ptr next = std::make_unique<Node>(std::forward<Arguments>(arguments)...);
    next->pos = pos;
    node = std::move(next);
}

template <typename Node>
void wrap(statement_ptr & node) {
    replace<Node>(node, std::move(node));
}

void count(statement_ptr & node);

void count_each(statements & nodes) {
    for (statement_ptr & node : nodes) {
        count(node);
    }
}

// What is executed and written out.
void count_body(statements & nodes) {
    for (statement_ptr & node : nodes) {
        const bool is_value = dynamic_cast<jinja::expression *>(node.get()) != nullptr;
        count(node);
        if (is_value) {
            wrap<written>(node);
        }
        wrap<counted_result>(node);
    }
}

// Parameters are names; what stands for those that are not given is executed.
void count_defaults(statements & parameters) {
    for (statement_ptr & parameter : parameters) {
        if (auto * named = dynamic_cast<jinja::keyword_argument_expression *>(parameter.get())) {
            count(named->val);
        }
    }
}

// A filter, or a test, is a name, or a call of one, whose arguments alone are executed.
void count_arguments(statement_ptr & name_or_call) {
    if (auto * call = dynamic_cast<jinja::call_expression *>(name_or_call.get())) {
        count_each(call->args);
    }
}

void count_items(statement_ptr & node) {
    count(node);
    wrap<counted_items>(node);
}

void count_set(statement_ptr & node, jinja::set_statement & x) {
    if (!x.val) {
        count_body(x.body);
        x.val = text_of(std::move(x.body));
        x.body.clear();
    } else {
        count(x.val);
    }
    auto * member = dynamic_cast<jinja::member_expression *>(x.assignee.get());
    if (member && !member->computed && dynamic_cast<jinja::identifier *>(member->property.get())) {
        count(member->object);
        replace<guarded_member>(node, *member, std::move(x.val));
    }
}

bool count_statement(statement_ptr & node) {
    jinja::statement * const n = node.get();
    if (auto * branch = dynamic_cast<jinja::if_statement *>(n)) {
        count(branch->test);
        count_body(branch->body);
        count_body(branch->alternate);
    } else if (auto * loop = dynamic_cast<jinja::for_statement *>(n)) {
        if (auto * some = dynamic_cast<jinja::select_expression *>(loop->iterable.get())) {
            count_items(some->lhs);
            count(some->test);
        } else {
            count_items(loop->iterable);
        }
        count_body(loop->body);
        count_body(loop->default_block);
    } else if (auto * set = dynamic_cast<jinja::set_statement *>(n)) {
        count_set(node, *set);
    } else if (auto * macro = dynamic_cast<jinja::macro_statement *>(n)) {
        count_defaults(macro->args);
        count_body(macro->body);
    } else if (auto * block = dynamic_cast<jinja::call_statement *>(n)) {
        if (auto * call = dynamic_cast<jinja::call_expression *>(block->call.get())) {
            count(call->callee);
            wrap<macro_alone>(call->callee);
            count_each(call->args);
        }
        count_defaults(block->caller_args);
        count_body(block->body);
    } else if (auto * filter = dynamic_cast<jinja::filter_statement *>(n)) {
        count_body(filter->body);
        count_arguments(filter->filter);
        replace<guarded_filter>(node, text_of(std::move(filter->body)), std::move(filter->filter));
    } else {
        return false;
    }
    return true;
}

void count_member(statement_ptr & node, jinja::member_expression & member) {
    count(member.object);
    auto * slice = dynamic_cast<jinja::slice_expression *>(member.property.get());
    if (slice) {
        count(slice->start_expr);
        count(slice->stop_expr);
        count(slice->step_expr);
    } else if (member.computed) {
        count(member.property);
    }
    replace<guarded_read>(node, member);
    if (slice) {
        wrap<counted_slice>(node);
    }
}

// Whether what it gives did not exist before.
bool count_expression(statement_ptr & node) {
    jinja::statement * const n = node.get();
    if (auto * member = dynamic_cast<jinja::member_expression *>(n)) {
        count_member(node, *member);
        return false;
    }
    if (auto * call = dynamic_cast<jinja::call_expression *>(n)) {
        count(call->callee);
        count_each(call->args);
        replace<guarded_call>(node, *call);
        return true;
    }
    if (auto * list = dynamic_cast<jinja::array_literal *>(n)) {
        count_each(list->val);
        return true;
    }
    if (auto * tuple = dynamic_cast<jinja::tuple_literal *>(n)) {
        count_each(tuple->val);
        return true;
    }
    if (auto * object = dynamic_cast<jinja::object_literal *>(n)) {
        for (auto & [key, item] : object->val) {
            count(key);
            count(item);
        }
        return true;
    }
    if (auto * binary = dynamic_cast<jinja::binary_expression *>(n)) {
        count(binary->left);
        count(binary->right);
        if (binary->op.value == "and" || binary->op.value == "or") {  // the right side may not be wanted
            return false;
        }
        replace<guarded_binary>(node, *binary);
        return true;
    }
    if (auto * filter = dynamic_cast<jinja::filter_expression *>(n)) {
        count(filter->operand);
        count_arguments(filter->filter);
        replace<guarded_filter>(node, std::move(filter->operand), std::move(filter->filter));
        return true;
    }
    if (auto * test = dynamic_cast<jinja::test_expression *>(n)) {
        count(test->operand);
        count_arguments(test->test);
        replace<guarded_test>(node, *test);
    } else if (auto * select = dynamic_cast<jinja::select_expression *>(n)) {
        count(select->lhs);
        count(select->test);
    } else if (auto * unary = dynamic_cast<jinja::unary_expression *>(n)) {
        count(unary->argument);
    } else if (auto * ternary = dynamic_cast<jinja::ternary_expression *>(n)) {
        count(ternary->condition);
        count(ternary->true_expr);
        count(ternary->false_expr);
    } else if (auto * named = dynamic_cast<jinja::keyword_argument_expression *>(n)) {
        count(named->val);
    }
    return false;
}

void count(statement_ptr & node) {
    if (!node) {
        return;
    }
    if (const auto * id = dynamic_cast<const jinja::identifier *>(node.get())) {
        replace<counted_name>(node, id->val);
        return;
    }
    if (!count_statement(node) && count_expression(node)) {
        wrap<counted_result>(node);
    } else {
        wrap<counted>(node);
    }
}

}  // namespace

void put_on_budget(jinja::program & program) {
    count_body(program.body);
}

}  // namespace livekv
