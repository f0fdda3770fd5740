#include "session/template_operators.h"

#include <algorithm>
#include <cmath>
#include <compare>
#include <limits>

#include "session/template_functions.h"
#include "session/template_strings.h"
#include "session/template_text.h"

namespace livekv {

namespace {

using jinja::value;

bool is_text(const value & v) {
    return jinja::is_val<jinja::value_string>(v);
}
bool is_number(const value & v) {
    return jinja::is_val<jinja::value_int>(v) || jinja::is_val<jinja::value_float>(v);
}
bool is_tuple(const value & v) {
    return jinja::is_val<jinja::value_tuple>(v);
}

// The engine's own floats of whole numbers beyond 2^53 are infinite.
double number(const value & v) {
    return jinja::is_val<jinja::value_int>(v) ? static_cast<double>(v->val_int) : v->val_flt;
}

// Of 64 bits of mantissa at least, which hold every number that there is.
long double exactly(const value & v) {
    static_assert(std::numeric_limits<long double>::digits >= 64);
    return jinja::is_val<jinja::value_int>(v) ? static_cast<long double>(v->val_int) : v->val_flt;
}

bool is_in_order(const std::string & op, std::partial_ordering order) {
    return op == "<" ? order < 0 : op == "<=" ? order <= 0 : op == ">" ? order > 0 : order >= 0;
}

bool equal(const value & a, const value & b) {
    if (jinja::is_val<jinja::value_array>(a) && jinja::is_val<jinja::value_array>(b)) {
        return typeid(*a) == typeid(*b) && std::ranges::equal(a->val_arr, b->val_arr, equal);
    }
    if (jinja::is_val<jinja::value_object>(a) && jinja::is_val<jinja::value_object>(b)) {
        return a->val_obj.size() == b->val_obj.size() && std::ranges::all_of(a->val_obj, [&](const auto & item) {
                   return b->has_key(item.first) && equal(item.second, b->at(item.first));
               });
    }
    return is_number(a) && is_number(b) ? compared(a, b) == 0 : *a == *b;
}

// Whether a list has an item, where that is for us to say: the engine knows texts and the keys of objects.
std::optional<bool> contains(const value & whole, const value & part) {
    if (jinja::is_val<jinja::value_array>(whole)) {
        look_into(whole);
        return std::ranges::any_of(whole->val_arr, [&](const value & item) { return equal(item, part); });
    }
    if (jinja::is_val<jinja::value_object>(whole) && part->is_undefined()) {
        return false;
    }
    return std::nullopt;
}

value of_integers(char op, int64_t a, int64_t b) {
    int64_t out = 0;
    bool overflows = false;
    switch (op) {
        case '+':
            overflows = __builtin_add_overflow(a, b, &out);
            break;
        case '-':
            overflows = __builtin_sub_overflow(a, b, &out);
            break;
        case '*':
            overflows = __builtin_mul_overflow(a, b, &out);
            break;
        case '/':  // rounded down
            overflows = a == INT64_MIN && b == -1;
            out = overflows ? 0 : a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
            break;
        default:  // %, of the divisor's sign
            out = b == -1 ? 0 : a % b;
            out += out != 0 && (out < 0) != (b < 0) ? b : 0;
            break;
    }
    if (overflows) {
        refuse("it makes an integer beyond 64 bits");
    }
    return jinja::mk_val<jinja::value_int>(out);
}

// Rounded down, as Python's float.__floordiv__ has it.
double whole_quotient(double a, double b) {
    double rest = std::fmod(a, b);
    double quotient = (a - rest) / b;
    quotient -= rest != 0 && (rest < 0) != (b < 0) ? 1 : 0;
    if (quotient == 0) {
        return std::copysign(0.0, a / b);
    }
    const double down = std::floor(quotient);
    return quotient - down > 0.5 ? down + 1 : down;
}

std::optional<value> of_numbers(const std::string & op, const value & a, const value & b) {
    const bool divides = op == "/" || op == "//" || op == "%";
    const double x = number(a);
    const double y = number(b);
    if (divides && y == 0) {
        refuse("it divides by zero");
    }
    const bool integers = jinja::is_val<jinja::value_int>(a) && jinja::is_val<jinja::value_int>(b);
    if (integers && (op == "+" || op == "-" || op == "*" || op == "//" || op == "%")) {
        return of_integers(op[0], a->val_int, b->val_int);
    }
    if (op == "//") {
        return jinja::mk_val<jinja::value_float>(whole_quotient(x, y));
    }
    if (op == "%") {
        double out = std::fmod(x, y);
        out += out != 0 && (out < 0) != (y < 0) ? y : 0;
        return jinja::mk_val<jinja::value_float>(out);
    }
    if (op == "/") {
        const bool fits =
            x == exactly(a) && y == exactly(b);  // else rounded twice, which is nearer than rounding first
        return jinja::mk_val<jinja::value_float>(fits ? x / y : static_cast<double>(exactly(a) / exactly(b)));
    }
    if (op == "+" || op == "-" || op == "*") {
        return jinja::mk_val<jinja::value_float>(op == "+" ? x + y : op == "-" ? x - y : x * y);
    }
    if (op == "<" || op == "<=" || op == ">" || op == ">=") {
        return jinja::mk_val<jinja::value_bool>(is_in_order(op, compared(a, b)));
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

std::partial_ordering compared(const value & a, const value & b) {
    return exactly(a) <=> exactly(b);
}

std::optional<value> own_operation(const std::string & op, const value & a, const value & b) {
    if (op == "==" || op == "!=") {
        return jinja::mk_val<jinja::value_bool>(equal(a, b) == (op == "=="));
    }
    if (op == "in" || op == "not in") {
        const std::optional<bool> has = contains(b, a);
        return has ? std::optional<value>(jinja::mk_val<jinja::value_bool>(*has == (op == "in"))) : std::nullopt;
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
    if (is_number(a) && is_number(b)) {
        return of_numbers(op, a, b);
    }
    if (is_text(a) && is_text(b) && (op == "<" || op == "<=" || op == ">" || op == ">=")) {
        return jinja::mk_val<jinja::value_bool>(is_in_order(op, a->val_str.str() <=> b->val_str.str()));
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
