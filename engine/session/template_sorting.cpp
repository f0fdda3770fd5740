// Lists and objects in order, and what comes first and last in it.

#include <algorithm>
#include <cmath>
#include <utility>

#include "session/template_lists.h"
#include "session/template_numbers.h"
#include "session/template_text.h"

namespace livekv {

namespace {

using jinja::value;

// Sorting needs an order: all numbers, or all texts.
bool is_less(const value & a, const value & b) {
    const auto is_number = [](const value & v) { return v->is_numeric(); };
    const auto is_text = [](const value & v) { return jinja::is_val<jinja::value_string>(v); };
    if (is_number(a) && is_number(b)) {
        return order_of_numbers(a, b) < 0;
    }
    if (is_text(a) && is_text(b)) {
        return a->val_str.str() < b->val_str.str();  // in UTF-8, the order of code points
    }
    refuse("it sorts values of several types");
}

value sort_key(const value & v, bool case_sensitive) {
    if (std::isnan(v->is_numeric() ? v->val_flt : 0.0)) {
        refuse("it sorts values of several types");
    }
    return !case_sensitive && jinja::is_val<jinja::value_string>(v) ? text_value(lower_case(v->val_str.str())) : v;
}

template <typename Item, typename Key>
void sort_by(std::vector<Item> & items, bool reverse, Key key) {
    std::vector<std::pair<value, Item>> keyed;
    for (const Item & item : items) {
        keyed.emplace_back(key(item), item);
        is_less(keyed.front().first, keyed.back().first);  // refuses what has no order
    }
    std::ranges::stable_sort(keyed, [&](const auto & a, const auto & b) {
        return reverse ? is_less(b.first, a.first) : is_less(a.first, b.first);
    });
    std::ranges::transform(keyed, items.begin(), [](const auto & one) { return one.second; });
}

value sort(const value & input, const given_arguments & arguments) {
    const value attribute = arguments.get("attribute", 2);
    std::vector<value> items = items_of(input, "the filter sort");
    sort_by(items, arguments.is_true("reverse", 0), [&](const value & item) {
        const bool has = attribute && !attribute->is_none();
        return sort_key(has ? attribute_of(item, attribute) : item, arguments.is_true("case_sensitive", 1));
    });
    return jinja::mk_val<jinja::value_array>(std::move(items));
}

value dictsort(const value & input, const given_arguments & arguments) {
    const value by = arguments.get("by", 1);
    const std::string what = by ? python_str(by).str() : "key";
    if (what != "key" && what != "value") {
        refuse("the filter dictsort sorts by key or value");
    }
    std::vector<std::pair<value, value>> items = input->val_obj;
    sort_by(items, arguments.is_true("reverse", 2), [&](const auto & item) {
        return sort_key(what == "key" ? item.first : item.second, arguments.is_true("case_sensitive", 0));
    });
    std::vector<value> pairs;
    for (const auto & item : items) {
        pairs.push_back(jinja::mk_val<jinja::value_tuple>(item));
    }
    return jinja::mk_val<jinja::value_array>(std::move(pairs));
}

value extreme(const std::string & name, const value & input, const given_arguments & arguments) {
    const value attribute = arguments.get("attribute", 1);
    const auto key = [&](const value & item) {
        const bool has = attribute && !attribute->is_none();
        return sort_key(has ? attribute_of(item, attribute) : item, arguments.is_true("case_sensitive", 0));
    };
    value best = jinja::mk_val<jinja::value_undefined>();
    for (const value & item : items_of(input, "the filter " + name)) {
        const bool better =
            best->is_undefined() || (name == "min" ? is_less(key(item), key(best)) : is_less(key(best), key(item)));
        best = better ? item : best;
    }
    return best;
}

}  // namespace

std::optional<value> sort_function(const std::string & name, const value & input, const given_arguments & arguments) {
    if (name == "sort") {
        arguments.require(name, 3, {"reverse", "case_sensitive", "attribute"});
        return sort(input, arguments);
    }
    if (name == "dictsort" && jinja::is_val<jinja::value_object>(input)) {
        arguments.require(name, 3, {"case_sensitive", "by", "reverse"});
        return dictsort(input, arguments);
    }
    if (name == "min" || name == "max") {
        arguments.require(name, 2, {"case_sensitive", "attribute"});
        return extreme(name, input, arguments);
    }
    return std::nullopt;
}

}  // namespace livekv
