#include "session/template_operators.h"

#include <algorithm>
#include <compare>

#include "session/template_budget.h"
#include "session/template_functions.h"
#include "session/template_numbers.h"
#include "session/template_strings.h"
#include "session/template_text.h"

namespace livekv {

namespace {

using jinja::value;

bool is_text(const value & v) {
    return jinja::is_val<jinja::value_string>(v);
}
bool is_tuple(const value & v) {
    return jinja::is_val<jinja::value_tuple>(v);
}

bool equal(const value & a, const value & b);

// As items of a list and values of an object are compared: what is one and the same need not be equal to itself.
bool same(const value & a, const value & b) {
    return a == b || equal(a, b);
}

bool equal(const value & a, const value & b) {
    if (a->is_numeric() && b->is_numeric()) {
        return order_of_numbers(a, b) == 0;
    }
    if (jinja::is_val<jinja::value_array>(a) && jinja::is_val<jinja::value_array>(b)) {
        template_budget::running().step(a->val_arr.size() / 16);
        return typeid(*a) == typeid(*b) && std::ranges::equal(a->val_arr, b->val_arr, same);
    }
    if (jinja::is_val<jinja::value_object>(a) && jinja::is_val<jinja::value_object>(b)) {
        template_budget::running().step(a->val_obj.size() / 16);
        return a->val_obj.size() == b->val_obj.size() && std::ranges::all_of(a->val_obj, [&](const auto & item) {
                   return b->has_key(item.first) && same(item.second, b->at(item.first));
               });
    }
    return *a == *b;
}

// Whether Python finds a in b; none: the engine's answer is right.
std::optional<bool> is_in(const value & a, const value & b) {
    step_for(b);
    if (jinja::is_val<jinja::value_array>(b)) {
        return std::ranges::any_of(b->val_arr, [&](const value & item) { return same(item, a); });
    }
    if (jinja::is_val<jinja::value_object>(b) && a->is_undefined()) {  // it has a hash, as all objects, but is no key
        return false;
    }
    if (jinja::is_val<jinja::value_object>(b)) {
        return b->has_key(a);
    }
    return std::nullopt;
}

std::optional<value> comparison(const std::string & op, std::partial_ordering order) {
    if (op == "<" || op == "<=" || op == ">" || op == ">=") {
        return jinja::mk_val<jinja::value_bool>(op == "<"    ? order < 0
                                                : op == "<=" ? order <= 0
                                                : op == ">"  ? order > 0
                                                             : order >= 0);
    }
    return std::nullopt;
}

// The places that Python's slice.indices gives.
std::vector<size_t> places(size_t n_items, const value & start, const value & stop, const value & step) {
    const auto number = [](const value & v, int64_t otherwise) {
        if (!v || v->is_none()) {
            return otherwise;
        }
        if (!jinja::is_val<jinja::value_int>(v)) {
            refuse("a slice is no integer");
        }
        return v->val_int;
    };
    const int64_t n = static_cast<int64_t>(n_items);
    const int64_t by = std::clamp(number(step, 1), -n - 1, n + 1);
    if (by == 0) {
        refuse("slice step cannot be zero");
    }
    const int64_t least = by > 0 ? 0 : -1;
    const int64_t most = by > 0 ? n : n - 1;
    const auto bound = [&](const value & v, int64_t otherwise) {
        const int64_t i = number(v, otherwise);
        const bool from_end = i < 0 && v && !v->is_none();
        return std::clamp(from_end ? std::max(i, -n - 1) + n : i, least, most);
    };
    const int64_t end = bound(stop, by > 0 ? n : -1);
    std::vector<size_t> at;
    for (int64_t i = bound(start, by > 0 ? 0 : n - 1); by > 0 ? i < end : i > end; i += by) {
        at.push_back(static_cast<size_t>(i));
    }
    return at;
}

}  // namespace

std::optional<value> own_operation(const std::string & op, const value & a, const value & b) {
    if (op == "==" || op == "!=") {
        return jinja::mk_val<jinja::value_bool>(equal(a, b) == (op == "=="));
    }
    if (op == "~" || (op == "+" && is_text(a) && is_text(b))) {
        jinja::string out = python_str(a);
        append_text(out, python_str(b));
        return text_value(std::move(out));
    }
    if (op == "%" && is_text(a)) {
        return text_value(format_percent(a->val_str, given_arguments(is_tuple(b) ? b->val_arr : std::vector{b})));
    }
    if (op == "+" && (is_text(a) || is_text(b))) {
        refuse("it adds a text and " + (is_text(a) ? b : a)->type());
    }
    if (op == "in" || op == "not in") {
        const std::optional<bool> found = is_in(a, b);
        return found ? std::optional<value>(jinja::mk_val<jinja::value_bool>(*found == (op == "in"))) : std::nullopt;
    }
    if (a->is_numeric() && b->is_numeric()) {
        const std::optional<value> answer = comparison(op, order_of_numbers(a, b));
        return answer ? answer : of_numbers(op, a, b);
    }
    if (is_text(a) && is_text(b)) {
        return comparison(op, a->val_str.str().compare(b->val_str.str()) <=> 0);
    }
    if (op == "+" && jinja::is_val<jinja::value_array>(a) && jinja::is_val<jinja::value_array>(b)) {
        look_into(a);
        look_into(b);
    }
    if (op == "+" && (is_tuple(a) || is_tuple(b))) {
        if (!is_tuple(a) || !is_tuple(b)) {
            refuse("it adds a tuple and " + (is_tuple(a) ? b : a)->type());
        }
        std::vector<value> all = a->val_arr;
        all.insert(all.end(), b->val_arr.begin(), b->val_arr.end());
        return jinja::mk_val<jinja::value_tuple>(std::move(all));
    }
    return std::nullopt;
}

std::optional<value> own_slice(const value & v, const value & start, const value & stop, const value & step) {
    if (is_text(v)) {
        const marked_text text(v->val_str);
        const std::vector<size_t> at = text.characters();
        const std::vector<size_t> wanted = places(at.size() - 1, start, stop, step);
        jinja::string out;
        for (size_t i = 0; i < wanted.size();) {  // what stands side by side in one piece
            size_t end = i + 1;
            while (end < wanted.size() && wanted[end] == wanted[end - 1] + 1) {
                ++end;
            }
            append_text(out, text.cut(at[wanted[i]], at[wanted[end - 1] + 1]));
            i = end;
        }
        return text_value(std::move(out));
    }
    if (!jinja::is_val<jinja::value_array>(v)) {
        return std::nullopt;
    }
    std::vector<value> items;
    for (const size_t i : places(v->val_arr.size(), start, stop, step)) {
        items.push_back(v->val_arr[i]);
    }
    return is_tuple(v) ? value(jinja::mk_val<jinja::value_tuple>(std::move(items)))
                       : value(jinja::mk_val<jinja::value_array>(std::move(items)));
}

value character_at(const value & v, int64_t i) {
    const marked_text text(v->val_str);
    const std::vector<size_t> at = text.characters();
    const int64_t n = static_cast<int64_t>(at.size()) - 1;
    const int64_t place = i < 0 && i >= -n ? i + n : i;
    if (place < 0 || place >= n) {
        return jinja::mk_val<jinja::value_undefined>();
    }
    return text_value(text.cut(at[static_cast<size_t>(place)], at[static_cast<size_t>(place) + 1]));
}

range_list::range_list(std::vector<value> && items, const std::vector<value> & arguments)
    : jinja::value_array_t(std::move(items)) {
    spelled = arguments.size() == 1 ? "range(0" : "range(";
    for (size_t i = 0; i < arguments.size(); ++i) {
        const bool is_step_of_one = i == 2 && arguments[i]->val_int == 1;
        if (!is_step_of_one) {
            spelled += (i > 0 || arguments.size() == 1 ? ", " : "") + std::to_string(arguments[i]->val_int);
        }
    }
    spelled += ")";
}

}  // namespace livekv
