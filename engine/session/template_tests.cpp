#include "session/template_tests.h"

#include <algorithm>
#include <map>

#include "session/template_functions.h"
#include "session/template_operators.h"

namespace livekv {

namespace {

using jinja::value;

bool is_truth_value(const value & v) {
    return jinja::is_val<jinja::value_bool>(v);
}

// Of a truth value, what it counts as.
value as_number(const value & v) {
    return is_truth_value(v) ? jinja::mk_val<jinja::value_int>(v->as_bool() ? 1 : 0) : v;
}

// By 0, and by -1 the least integer, which ends the process.
bool divides_nothing(const value & v) {
    const value divisor = as_number(v);
    return jinja::is_val<jinja::value_int>(divisor) && (divisor->val_int == 0 || divisor->val_int == -1);
}

// The operator that a test of two values is; empty: it is none.
std::string operator_of(const std::string & name) {
    static const std::map<std::string, std::string> operators = {
        {"eq", "=="},      {"equalto", "=="}, {"ne", "!="},         {"in", "in"}, {"lt", "<"},
        {"lessthan", "<"}, {"gt", ">"},       {"greaterthan", ">"}, {"ge", ">="}, {"le", "<="}};
    const auto found = operators.find(name);
    return found == operators.end() ? "" : found->second;
}

// They divide numbers.
bool counts(const std::string & name) {
    static const char * const names[] = {"odd", "even", "divisibleby"};
    return std::ranges::find(names, name) != std::end(names);
}

}  // namespace

std::optional<bool> own_test(const std::string & name, const value & v, const std::vector<value> & arguments,
                             jinja::context & ctx) {
    if (name == "string" || name == "iterable" || name == "sequence" || name == "mapping") {
        look_into(v);
    }
    if (name == "number" && is_truth_value(v) && arguments.empty()) {
        return true;
    }
    const std::string op = operator_of(name);
    if (!op.empty() && arguments.size() == 1) {
        const std::optional<value> answer = own_operation(op, v, arguments[0]);
        if (!answer && op != "in") {  // the engine's test reads a number as a text
            refuse("the test " + name + " is given " + v->type() + " and " + arguments[0]->type());
        }
        return answer ? std::optional<bool>((*answer)->as_bool()) : std::nullopt;
    }
    if (name == "divisibleby" && std::ranges::any_of(arguments, divides_nothing)) {
        refuse("divisibleby needs a number other than 0 and -1");
    }
    if (!counts(name) || (!is_truth_value(v) && std::ranges::none_of(arguments, is_truth_value))) {
        return std::nullopt;
    }
    jinja::func_args numbers(ctx);
    numbers.func_name = name;
    numbers.push_back(as_number(v));
    for (const value & argument : arguments) {
        numbers.push_back(as_number(argument));
    }
    return jinja::global_builtins().at("test_is_" + name)(numbers)->as_bool();
}

}  // namespace livekv
