#include "session/template_guards.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "session/template_blocks.h"
#include "session/template_budget.h"
#include "session/template_functions.h"
#include "session/template_macros.h"
#include "session/template_operators.h"
#include "session/template_tests.h"
#include "session/template_text.h"

namespace livekv {

namespace {

using jinja::context;
using jinja::statement_ptr;
using jinja::statements;
using jinja::value;

statement_ptr node_of(const value & v) {
    return std::make_unique<known_value>(v);
}

std::vector<value> evaluated(const statements & nodes, context & ctx) {
    std::vector<value> values;
    for (const statement_ptr & node : nodes) {
        values.push_back(node->execute(ctx));
    }
    return values;
}

statements nodes_of(const std::vector<value> & values) {
    statements nodes;
    for (const value & v : values) {
        nodes.push_back(node_of(v));
    }
    return nodes;
}

const value & behind_name(const value & v) {
    const auto * named = jinja::cast_val<jinja::value_kwarg>(v);
    return named ? named->val : v;
}

// How often an argument may repeat what it is given with: a number so often, a text as long as it is.
double repeats(const value & argument) {
    const value & v = behind_name(argument);
    if (jinja::is_val<jinja::value_int>(v)) {
        return std::fabs(static_cast<double>(v->val_int));
    }
    if (jinja::is_val<jinja::value_string>(v)) {
        return static_cast<double>(v->val_str.length());
    }
    return static_cast<double>(template_budget::running().bytes_of(v));
}

// A text so many times.
void require_room_for_product(const value & text, const value & n) {
    if (jinja::is_val<jinja::value_string>(text) && jinja::is_val<jinja::value_int>(n) && n->val_int > 0) {
        template_budget::running().require_room(static_cast<double>(n->val_int) *
                                                static_cast<double>(1 + bytes_of_text(text->val_str)));
    }
}

value operated(const jinja::token & op, const value & l, const value & r, context & ctx) {
    if (op.value == "*") {
        require_room_for_product(l, r);
        require_room_for_product(r, l);
    }
    if (const std::optional<value> v = own_operation(op.value, l, r)) {
        return *v;
    }
    return jinja::binary_expression(op, node_of(l), node_of(r)).execute_impl(ctx);
}

// The name of a filter or a test, which stands alone or with arguments.
std::string name_of(const statement_ptr & name_or_call) {
    const jinja::statement * node = name_or_call.get();
    if (const auto * call = dynamic_cast<const jinja::call_expression *>(node)) {
        node = call->callee.get();
    }
    const auto * id = dynamic_cast<const jinja::identifier *>(node);
    return id ? id->val : "";
}

statements arguments_of(const statement_ptr & name_or_call) {
    auto * call = dynamic_cast<jinja::call_expression *>(name_or_call.get());
    return call ? std::move(call->args) : statements();
}

}  // namespace

void guard_function(const std::string & name, const value & input, const std::vector<value> & arguments) {
    template_budget & budget = template_budget::running();
    double most = 1.0;
    for (const value & argument : arguments) {
        most = std::max(most, repeats(argument));
    }
    constexpr double value_bytes = 320.0;  // of one in a list
    constexpr double levels = 100.0;       // as deep as lists may nest, each of which is indented
    if (name == "range") {
        budget.require_room(value_bytes * most);
        budget.step(static_cast<size_t>(most) / 16);
    } else if (input && (name == "tojson" || name == "string" || name == "safe")) {
        budget.require_room(static_cast<double>(budget.bytes_of(input)) / value_bytes * most * levels);
    } else if (input && (name == "replace" || name == "indent" || name == "join")) {
        const bool is_text = jinja::is_val<jinja::value_string>(input);
        const size_t n_places =
            is_text ? input->val_str.length() : budget.bytes_of(input);  // it may be written as text
        budget.require_room(static_cast<double>(name == "join" && !is_text ? input->val_arr.size() : n_places) * most);
    } else if (input && name == "append") {
        for (const value & argument : arguments) {
            refuse_cycle(input, argument);
        }
    }
}

known_value::known_value(value known) : v(std::move(known)) {}

value known_value::execute_impl(context &) const {
    return v;
}

guarded_binary::guarded_binary(jinja::binary_expression & node)
    : op(node.op), left(std::move(node.left)), right(std::move(node.right)) {}

value guarded_binary::execute_impl(context & ctx) const {
    const value l = left->execute(ctx);
    return operated(op, l, right->execute(ctx), ctx);
}

value chained_comparison::execute_impl(context & ctx) const {
    value l = first->execute(ctx);
    value answer;
    for (const auto & [op, node] : rest) {
        const value r = node->execute(ctx);
        answer = operated(op, l, r, ctx);
        if (!answer->as_bool()) {
            break;
        }
        l = r;
    }
    return answer;
}

guarded_read::guarded_read(jinja::member_expression & node) : object(std::move(node.object)), computed(node.computed) {
    if (auto * slice = dynamic_cast<jinja::slice_expression *>(node.property.get())) {
        start = std::move(slice->start_expr);
        stop = std::move(slice->stop_expr);
        step = std::move(slice->step_expr);
        is_slice = true;
    } else if (computed) {
        property = std::move(node.property);
    } else if (const auto * id = dynamic_cast<const jinja::identifier *>(node.property.get())) {
        name = id->val;
    } else if (const auto * place = dynamic_cast<const jinja::integer_literal *>(node.property.get())) {
        property = node_of(jinja::mk_val<jinja::value_int>(place->val));
        computed = true;
    }
}

value guarded_read::execute_impl(context & ctx) const {
    const value v = object->execute(ctx);
    if (const auto * missing = jinja::cast_val<jinja::value_undefined>(v)) {
        refuse(missing->hint.empty() ? "it reads of what is undefined" : "'" + missing->hint + "' is undefined");
    }
    look_into(v);
    if (is_slice || jinja::is_val<jinja::value_string>(v)) {
        step_for(v);
    }
    const auto part = [&](const statement_ptr & node) { return node ? node->execute(ctx) : nullptr; };
    if (is_slice) {
        const value from = part(start);
        const value to = part(stop);
        std::optional<value> cut = own_slice(v, from, to, part(step));
        if (!cut) {
            refuse("it slices " + v->type());
        }
        return *cut;
    }
    const value key = computed ? property->execute(ctx) : jinja::mk_val<jinja::value_string>(name);
    if (jinja::is_val<jinja::value_string>(v) && jinja::is_val<jinja::value_int>(key)) {
        return character_at(v, key->val_int);
    }
    statement_ptr what = computed ? node_of(key) : std::make_unique<jinja::identifier>(name);
    const value found = jinja::member_expression(node_of(v), std::move(what), computed).execute_impl(ctx);
    if (found->is_undefined() && !computed && jinja::is_val<jinja::value_string>(v) && is_own_method(name)) {
        const auto by_guard = [](const jinja::func_args &) -> value { refuse("a method is no filter"); };
        return jinja::mk_val<jinja::value_func>(name, by_guard, v);
    }
    const auto * loop = jinja::cast_val<jinja::value_object>(v);
    if (loop && !loop->has_builtins && !loop->val_obj.empty() && found->is_undefined() && key->is_hashable() &&
        !v->has_key(key)) {
        if (name == "cycle") {
            return cycle_of(v);
        }
        refuse("a loop has no '" + python_str(key).str() + "' here");
    }
    return found->is_undefined() ? jinja::mk_val<jinja::value_undefined>(python_str(key).str()) : found;
}

guarded_filter::guarded_filter(statement_ptr && input, statement_ptr && filter)
    : operand(std::move(input)),
      name(name_of(filter)),
      is_call(dynamic_cast<const jinja::call_expression *>(filter.get()) != nullptr),
      arguments(arguments_of(filter)) {}

value guarded_filter::execute_impl(context & ctx) const {
    const value input = operand->execute(ctx);
    const std::vector<value> values = evaluated(arguments, ctx);
    guard_function(name, input, values);
    if (const std::optional<value> v = own_function(name, call_kind::filter, input, values, ctx)) {
        return *v;
    }
    statement_ptr filter = std::make_unique<jinja::identifier>(name);
    if (is_call) {
        filter = std::make_unique<jinja::call_expression>(std::move(filter), nodes_of(values));
    }
    return jinja::filter_expression(node_of(input), std::move(filter)).execute_impl(ctx);
}

guarded_call::guarded_call(jinja::call_expression & node)
    : callee(std::move(node.callee)), arguments(std::move(node.args)) {}

value guarded_call::execute_impl(context & ctx) const {
    const std::vector<value> values = evaluated(arguments, ctx);
    const value f = callee->execute(ctx);
    const bool is_macro = dynamic_cast<const macro_function *>(f.get()) != nullptr;  // whatever its name
    if (const auto * function = jinja::cast_val<jinja::value_func>(f); function && !is_macro) {
        guard_function(function->name, function->arg0, values);
        if (function->arg0) {
            if (const std::optional<value> v =
                    own_function(function->name, call_kind::method, function->arg0, values, ctx)) {
                return *v;
            }
        } else if (function->name == "tojson") {
            refuse("tojson is a filter, no function");
        }
        const value made = jinja::call_expression(node_of(f), nodes_of(values)).execute_impl(ctx);
        const bool is_range = !function->arg0 && function->name == "range" && jinja::is_val<jinja::value_array>(made);
        return is_range ? value(std::make_shared<range_list>(std::move(made->val_arr), values)) : made;
    }
    return jinja::call_expression(node_of(f), nodes_of(values)).execute_impl(ctx);
}

guarded_test::guarded_test(jinja::test_expression & node)
    : operand(std::move(node.operand)),
      negate(node.negate),
      name(name_of(node.test)),
      arguments(arguments_of(node.test)) {}

value guarded_test::execute_impl(context & ctx) const {
    const value input = operand->execute(ctx);
    const std::vector<value> values = evaluated(arguments, ctx);
    const auto is_text = [](const value & v) { return jinja::is_val<jinja::value_string>(v); };
    if (name == "sameas" && is_text(input) && std::ranges::any_of(values, is_text)) {
        refuse("the test sameas is not done with texts");
    }
    if (name == "callable" && input->is_undefined()) {
        refuse("the test callable is not done with what is undefined");
    }
    if (const std::optional<bool> passes = own_test(name, input, values, ctx)) {
        return jinja::mk_val<jinja::value_bool>(*passes != negate);
    }
    statement_ptr test = std::make_unique<jinja::identifier>(name);
    if (!values.empty()) {
        test = std::make_unique<jinja::call_expression>(std::move(test), nodes_of(values));
    }
    return jinja::test_expression(node_of(input), negate, std::move(test)).execute_impl(ctx);
}

guarded_member::guarded_member(jinja::member_expression & target, statement_ptr && node)
    : object(std::move(target.object)),
      name(dynamic_cast<const jinja::identifier &>(*target.property).val),
      val(std::move(node)) {}

value guarded_member::execute_impl(context & ctx) const {
    const value v = val->execute(ctx);
    const value target = object->execute(ctx);
    refuse_cycle(target, v);
    auto member = std::make_unique<jinja::member_expression>(node_of(target), std::make_unique<jinja::identifier>(name),
                                                             /*computed=*/false);
    return jinja::set_statement(std::move(member), node_of(v), {}).execute_impl(ctx);
}

}  // namespace livekv
