// What templates do to lists and objects, and to values of any type: Jinja's filters of these names.

#include "session/template_lists.h"

#include <algorithm>
#include <cmath>

#include "session/template_budget.h"
#include "session/template_functions.h"
#include "session/template_guards.h"
#include "session/template_numbers.h"
#include "session/template_strings.h"
#include "session/template_tests.h"
#include "session/template_text.h"

namespace livekv {

namespace {

using jinja::value;

value undefined() {
    return jinja::mk_val<jinja::value_undefined>();
}

value list_of(std::vector<value> items) {
    return jinja::mk_val<jinja::value_array>(std::move(items));
}

value join(const value & input, const given_arguments & arguments) {
    const value with = arguments.get("d", 0);
    const value attribute = arguments.get("attribute", 1);
    const jinja::string between = with ? python_str(with) : jinja::string();
    jinja::string out;
    bool first = true;
    for (const value & item : items_of(input, "the filter join")) {
        if (!first) {
            append_text(out, between);
        }
        first = false;
        append_text(out, python_str(attribute && !attribute->is_none() ? attribute_of(item, attribute) : item));
    }
    return text_value(std::move(out));
}

// The method of str.
value join_texts(const jinja::string & between, const value & list) {
    jinja::string out;
    bool first = true;
    for (const value & item : list ? items_of(list, "join") : std::vector<value>{list}) {
        if (!first) {
            append_text(out, between);
        }
        first = false;
        append_text(out, text_of(item, "join"));
    }
    return text_value(std::move(out));
}

// Jinja's filters that pick items ask first whether there is anything: none, false and 0 count as empty lists.
std::vector<value> items_if_any(const value & input, const std::string & filter) {
    look_into(input);
    return input->as_bool() ? items_of(input, "the filter " + filter) : std::vector<value>();
}

bool passes(const value & v, const std::vector<value> & test, jinja::context & ctx) {
    if (test.empty()) {
        return v->as_bool();
    }
    static const std::map<std::string, std::string> other_names = {{"==", "eq"}, {"!=", "ne"}, {"<", "lt"},
                                                                   {"<=", "le"}, {">", "gt"},  {">=", "ge"}};
    const std::string given = python_str(test[0]).str();
    const auto other = other_names.find(given);
    const std::string name = other == other_names.end() ? given : other->second;
    const std::vector<value> rest(test.begin() + 1, test.end());
    if (const std::optional<bool> answer = own_test(name, v, rest, ctx)) {
        return *answer;
    }
    const auto & tests = jinja::global_builtins();
    const auto f = tests.find("test_is_" + name);
    if (f == tests.end() || name == "sameas") {
        refuse("there is no test '" + given + "' here");
    }
    jinja::func_args arguments(ctx);
    arguments.func_name = given;
    arguments.push_back(v);
    for (const value & argument : rest) {
        arguments.push_back(argument);
    }
    return f->second(arguments)->as_bool();
}

value select(const std::string & name, const value & input, const given_arguments & arguments, jinja::context & ctx) {
    const bool of_attribute = name.ends_with("attr");
    const bool wanted = name.starts_with("select");
    std::vector<value> test = arguments.in_order;
    value attribute;
    if (of_attribute) {
        if (test.empty()) {
            refuse("the filter " + name + " needs an attribute");
        }
        attribute = test[0];
        test.erase(test.begin());
    }
    std::vector<value> out;
    for (const value & item : items_if_any(input, name)) {
        if (passes(of_attribute ? attribute_of(item, attribute) : item, test, ctx) == wanted) {
            out.push_back(item);
        }
    }
    return list_of(std::move(out));
}

value map(const value & input, const given_arguments & arguments, jinja::context & ctx) {
    const auto attribute = arguments.by_name.find("attribute");
    const auto otherwise = arguments.by_name.find("default");
    std::vector<value> out;
    for (const value & item : items_if_any(input, "map")) {
        if (attribute != arguments.by_name.end()) {
            value v = attribute_of(item, attribute->second);
            out.push_back(v->is_undefined() && otherwise != arguments.by_name.end() ? otherwise->second : v);
            continue;
        }
        if (arguments.in_order.empty()) {
            refuse("the filter map needs an attribute, or a filter's name");
        }
        const std::string name = python_str(arguments.in_order[0]).str();
        const std::vector<value> rest(arguments.in_order.begin() + 1, arguments.in_order.end());
        guard_function(name, item, rest);
        std::optional<value> v = own_function(name, call_kind::filter, item, rest, ctx);
        if (!v) {
            refuse("the filter map is not done with the filter '" + name + "'");
        }
        template_budget::running().made(*v);
        out.push_back(*v);
    }
    return list_of(std::move(out));
}

value to_json(const value & input, const given_arguments & arguments) {
    json_form form;
    form.ensure_ascii = arguments.is_true("ensure_ascii", 0);
    form.sort_keys = arguments.is_true("sort_keys", 3);
    const value indent = arguments.get("indent", 1);
    if (indent && !indent->is_none()) {
        form.indent = static_cast<int>(std::max<int64_t>(0, arguments.number("indent", 1, 0)));
        form.item_separator = ",";
    }
    const value separators = arguments.get("separators", 2);
    if (separators && !separators->is_none()) {
        const std::vector<value> both = items_of(separators, "the filter tojson");
        if (both.size() != 2) {
            refuse("tojson needs two separators");
        }
        form.item_separator = python_str(both[0]).str();
        form.key_separator = python_str(both[1]).str();
    }
    return text_value(python_json(input, form));
}

value or_default(const value & input, const given_arguments & arguments) {
    const value otherwise = arguments.get("default_value", 0);
    const bool missing = input->is_undefined() || (arguments.is_true("boolean", 1) && !input->as_bool());
    return !missing ? input : otherwise ? otherwise : text_value({});
}

}  // namespace

value attribute_of(value v, const value & attribute) {
    value missing = jinja::mk_val<jinja::value_undefined>();
    if (jinja::is_val<jinja::value_int>(attribute)) {
        look_into(v);
        return jinja::is_val<jinja::value_array>(v) ? v->at(attribute, missing) : missing;
    }
    if (!jinja::is_val<jinja::value_string>(attribute)) {
        refuse("an attribute is no name");
    }
    const std::string path = attribute->val_str.str();
    for (size_t from = 0; from <= path.size();) {
        const size_t to = std::min(path.find('.', from), path.size());
        const std::string name = path.substr(from, to - from);
        from = to + 1;
        look_into(v);
        const bool is_place =
            !name.empty() && name.size() <= 9 && name.find_first_not_of("0123456789") == std::string::npos;
        if (jinja::is_val<jinja::value_object>(v)) {
            v = v->at(name, missing);
        } else if (jinja::is_val<jinja::value_array>(v) && is_place) {
            v = v->at(jinja::mk_val<jinja::value_int>(std::stoll(name)), missing);
        } else {
            return missing;
        }
    }
    return v;
}

std::vector<value> items_of(const value & v, const std::string & function) {
    look_into(v);
    if (jinja::is_val<jinja::value_array>(v)) {
        return v->val_arr;
    }
    std::vector<value> items;
    if (jinja::is_val<jinja::value_object>(v)) {
        for (const auto & [key, item] : v->val_obj) {
            items.push_back(key);
        }
    } else if (jinja::is_val<jinja::value_string>(v)) {
        const marked_text text(v->val_str);
        const std::vector<size_t> at = text.characters();
        constexpr double value_bytes = 320.0;
        template_budget::running().require_room(value_bytes * static_cast<double>(at.size()));
        for (size_t i = 0; i + 1 < at.size(); ++i) {
            items.push_back(text_value(text.cut(at[i], at[i + 1])));
        }
    } else if (!v->is_undefined()) {
        refuse(function + " is given " + v->type());
    }
    return items;
}

std::optional<value> list_function(const std::string & name, call_kind kind, const value & input,
                                   const given_arguments & arguments, jinja::context & ctx) {
    if (kind == call_kind::method && name == "join" && jinja::is_val<jinja::value_string>(input)) {
        arguments.require(name, 1, {});
        return join_texts(input->val_str, arguments.get("", 0));
    }
    if (kind == call_kind::method) {
        return std::nullopt;
    }
    if (name == "round" && (jinja::is_val<jinja::value_int>(input) || jinja::is_val<jinja::value_float>(input))) {
        arguments.require(name, 2, {"precision", "method"});
        return rounded(input, arguments);
    }
    if (name == "int" && jinja::is_val<jinja::value_float>(input)) {
        arguments.require(name, 2, {"default", "base"});
        const value otherwise = arguments.get("default", 0);
        return !std::isnan(input->val_flt) ? whole_number(input->val_flt)
               : otherwise                 ? otherwise
                                           : value(jinja::mk_val<jinja::value_int>(0));
    }
    if (name == "default") {
        arguments.require(name, 2, {"default_value", "boolean"});
        return or_default(input, arguments);
    }
    if (name == "tojson") {
        arguments.require(name, 4, {"ensure_ascii", "indent", "separators", "sort_keys"});
        return to_json(input, arguments);
    }
    if (name == "string" || name == "safe") {
        arguments.require(name, 0, {});
        return text_value(python_str(input));
    }
    if (name == "join") {
        arguments.require(name, 2, {"d", "attribute"});
        return join(input, arguments);
    }
    if (name == "select" || name == "reject" || name == "selectattr" || name == "rejectattr") {
        arguments.require(name, SIZE_MAX, {});
        return select(name, input, arguments, ctx);
    }
    if (name == "map") {
        return map(input, arguments, ctx);
    }
    if (name == "list" || name == "reverse") {
        arguments.require(name, 0, {});
        std::vector<value> items = items_of(input, "the filter " + name);
        if (name == "reverse") {
            std::ranges::reverse(items);
        }
        const bool is_text = jinja::is_val<jinja::value_string>(input);
        return name == "reverse" && is_text ? join(list_of(std::move(items)), given_arguments({}))
                                            : list_of(std::move(items));
    }
    if (name == "first" || name == "last") {
        arguments.require(name, 0, {});
        const std::vector<value> items = items_of(input, "the filter " + name);
        return items.empty() ? undefined() : name == "first" ? items.front() : items.back();
    }
    return sort_function(name, input, arguments);
}

}  // namespace livekv
