#include "session/template_nodes.h"

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "session/template_blocks.h"
#include "session/template_counted.h"
#include "session/template_functions.h"
#include "session/template_guards.h"
#include "session/template_macros.h"
#include "session/template_tokens.h"

namespace livekv {

namespace {

using jinja::statement_ptr;
using jinja::statements;

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

// Puts other nodes in the place of the engine's.
struct node_changes {
    void count_each(statements & nodes) {
        for (statement_ptr & node : nodes) {
            count(node);
        }
    }

    // What is executed and written out.
    void count_body(statements & nodes) {
        count_generations(nodes);
        for (statement_ptr & node : nodes) {
            const bool is_value = dynamic_cast<jinja::expression *>(node.get()) != nullptr;
            count(node);
            if (is_value) {
                wrap<written>(node);
            }
            wrap<counted_result>(node);
        }
    }

    // {% generation %} and {% endgeneration %}, transformers' own, of both of which the engine makes an empty node.
    void count_generations(statements & nodes) {
        statements others;
        statements block;
        bool is_inside = false;
        for (statement_ptr & node : nodes) {
            if (!dynamic_cast<const jinja::noop_statement *>(node.get())) {
                (is_inside ? block : others).push_back(std::move(node));
                continue;
            }
            if (is_inside) {
                count_body(block);
                others.push_back(std::make_unique<scoped_text>(std::exchange(block, {})));
            }
            is_inside = !is_inside;
        }
        if (is_inside) {
            refuse("a generation block is not closed in the block that it begins in");
        }
        nodes = std::move(others);
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
            x.val = std::make_unique<scoped_text>(std::move(x.body));
        } else {
            count(x.val);
        }
        auto * member = dynamic_cast<jinja::member_expression *>(x.assignee.get());
        if (member && !member->computed && dynamic_cast<jinja::identifier *>(member->property.get())) {
            count(member->object);
            replace<guarded_member>(node, *member, std::move(x.val));
        } else {
            replace<scoped_set>(node, *x.assignee, std::move(x.val));
        }
    }

    // Of a macro or a block that is handed to one; whether it says caller.
    bool count_macro(statements & parameters, statements & body) {
        count_defaults(parameters);
        const bool said_before = std::exchange(says_caller, false);
        count_body(body);
        const bool says = says_caller;
        says_caller = says || said_before;
        return says;
    }

    bool count_statement(statement_ptr & node) {
        jinja::statement * const n = node.get();
        if (auto * branch = dynamic_cast<jinja::if_statement *>(n)) {
            count(branch->test);
            count_body(branch->body);
            count_body(branch->alternate);
            replace<scoped_if>(node, *branch);
        } else if (auto * loop = dynamic_cast<jinja::for_statement *>(n)) {
            if (auto * some = dynamic_cast<jinja::select_expression *>(loop->iterable.get())) {
                count_items(some->lhs);
                count(some->test);
            } else {
                count_items(loop->iterable);
            }
            count_body(loop->body);
            count_body(loop->default_block);
            replace<scoped_for>(node, *loop);
        } else if (auto * set = dynamic_cast<jinja::set_statement *>(n)) {
            count_set(node, *set);
        } else if (auto * macro = dynamic_cast<jinja::macro_statement *>(n)) {
            const bool says = count_macro(macro->args, macro->body);
            replace<scoped_macro>(node, *macro, says);
        } else if (auto * block = dynamic_cast<jinja::call_statement *>(n)) {
            if (auto * call = dynamic_cast<jinja::call_expression *>(block->call.get())) {
                count(call->callee);
                count_each(call->args);
            }
            const bool says = count_macro(block->caller_args, block->body);
            replace<scoped_call>(node, *block, says);
        } else if (auto * filter = dynamic_cast<jinja::filter_statement *>(n)) {
            count_body(filter->body);
            count_arguments(filter->filter);
            replace<guarded_filter>(node, std::make_unique<scoped_text>(std::move(filter->body)),
                                    std::move(filter->filter));
        } else if (dynamic_cast<const jinja::break_statement *>(n)) {
            replace<leaving>(node, /*next=*/false);
        } else if (dynamic_cast<const jinja::continue_statement *>(n)) {
            replace<leaving>(node, /*next=*/true);
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

    // The engine's node of the last comparison, which holds those before it on its left.
    void count_chain(statement_ptr & node, jinja::binary_expression & last) {
        std::vector<jinja::binary_expression *> all = {&last};
        while (std::string_view(all.back()->op.value).starts_with(chained)) {
            auto * before = dynamic_cast<jinja::binary_expression *>(all.back()->left.get());
            if (!before) {
                refuse("a comma is missing between comparisons");
            }
            all.push_back(before);
        }
        count(all.back()->left);
        auto chain = std::make_unique<chained_comparison>(std::move(all.back()->left));
        for (auto one = all.rbegin(); one != all.rend(); ++one) {
            count((*one)->right);
            jinja::token op = (*one)->op;
            op.value.erase(0, op.value.starts_with(chained) ? chained.size() : 0);
            chain->rest.emplace_back(op, std::move((*one)->right));
        }
        chain->pos = node->pos;
        node = std::move(chain);
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
            if (std::string_view(binary->op.value).starts_with(chained)) {
                count_chain(node, *binary);
                return true;
            }
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
            says_caller = says_caller || id->val == "caller";
            replace<counted_name>(node, id->val);
            return;
        }
        if (!count_statement(node) && count_expression(node)) {
            wrap<counted_result>(node);
        } else {
            wrap<counted>(node);
        }
    }

    bool says_caller = false;
};

}  // namespace

void put_on_budget(jinja::program & program) {
    node_changes().count_body(program.body);
}

}  // namespace livekv
