#include "session/template_functions.h"

#include <algorithm>

#include "session/template_budget.h"

namespace livekv {

using jinja::value;

given_arguments::given_arguments(const std::vector<value> & all) {
    for (const value & v : all) {
        if (const auto * named = jinja::cast_val<jinja::value_kwarg>(v)) {
            by_name[named->key] = named->val;
        } else {
            in_order.push_back(v);
        }
    }
}

value given_arguments::get(const char * name, size_t place) const {
    if (place < in_order.size()) {
        return in_order[place];
    }
    const auto named = by_name.find(name);
    return named == by_name.end() ? nullptr : named->second;
}

bool given_arguments::is_true(const char * name, size_t place) const {
    const value v = get(name, place);
    return v && v->as_bool();
}

int64_t given_arguments::number(const char * name, size_t place, int64_t otherwise) const {
    const value v = get(name, place);
    if (v && !jinja::is_val<jinja::value_int>(v)) {
        refuse(std::string("the argument '") + name + "' is no integer");
    }
    return v ? v->val_int : otherwise;
}

void given_arguments::require(const std::string & function, size_t most,
                              std::initializer_list<const char *> names) const {
    if (in_order.size() > most) {
        refuse(function + " is given too many arguments");
    }
    for (const auto & [name, v] : by_name) {
        if (std::ranges::find(names, name) == names.end()) {
            refuse(function + " has no argument '" + name + "'");
        }
    }
}

std::optional<value> own_function(const std::string & name, call_kind kind, const value & input,
                                  const std::vector<value> & arguments, jinja::context & ctx) {
    static const std::map<std::string, std::string> aliases = {
        {"count", "length"}, {"d", "default"}, {"trim", "strip"}};
    const auto alias = kind == call_kind::filter ? aliases.find(name) : aliases.end();
    const std::string & known = alias == aliases.end() ? name : alias->second;
    step_for(input);
    const given_arguments given(arguments);
    if (std::optional<value> v = text_function(known, kind, input, given)) {
        return v;
    }
    return list_function(known, kind, input, given, ctx);
}

void step_for(const value & v) {
    constexpr size_t bytes_a_step = 64;
    constexpr size_t items_a_step = 16;
    size_t n = v->val_str.length() / bytes_a_step + (v->val_arr.size() + v->val_obj.size()) / items_a_step;
    for (const value & item : v->val_arr) {
        n += item->val_str.length() / bytes_a_step;
    }
    template_budget::running().step(n);
}

void look_into(const value & v) {
    if (jinja::is_val<jinja::value_array>(v)) {
        v->stats.used = true;
    }
}

value text_value(jinja::string text) {
    return jinja::mk_val<jinja::value_string>(text);
}

void append_text(jinja::string & text, const jinja::string & more) {
    for (const jinja::string_part & part : more.parts) {
        if (!text.parts.empty() && text.parts.back().is_input == part.is_input) {
            text.parts.back().val += part.val;
        } else if (!part.val.empty()) {
            text.parts.push_back(part);
        }
    }
}

void refuse(const std::string & why) {
    throw jinja::raised_exception(why);
}

}  // namespace livekv
