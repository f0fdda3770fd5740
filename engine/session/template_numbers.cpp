#include "session/template_numbers.h"

#include <bit>
#include <cmath>
#include <cstdint>

#include "session/template_functions.h"

namespace livekv {

namespace {

using jinja::value;

constexpr double two_to_63 = 0x1p63;

bool is_float(const value & v) {
    return jinja::is_val<jinja::value_float>(v);
}

// a <=> x
std::partial_ordering order_of(int64_t a, double x) {
    if (std::isnan(x)) {
        return std::partial_ordering::unordered;
    }
    if (x >= two_to_63) {
        return std::partial_ordering::less;
    }
    if (x < -two_to_63) {
        return std::partial_ordering::greater;
    }
    const double whole = std::trunc(x);
    const int64_t b = static_cast<int64_t>(whole);
    return a != b ? std::partial_ordering(a <=> b) : whole <=> x;
}

uint64_t magnitude(int64_t x) {
    return x < 0 ? 0 - static_cast<uint64_t>(x) : static_cast<uint64_t>(x);
}

// The nearest double to a / b, which the quotient of the nearest doubles need not be.
double quotient(int64_t a, int64_t b) {
    __extension__ using uint128 = unsigned __int128;
    const uint64_t over = magnitude(a);
    const uint64_t under = magnitude(b);
    if (over == 0) {
        return b < 0 ? -0.0 : 0.0;
    }
    const int shift = 64 + std::countl_zero(over);
    const uint128 raised = static_cast<uint128>(over) << shift;
    uint128 digits = raised / under;
    digits |= raised % under != 0 ? 1 : 0;  // has 64 binary digits or more, so this one only says which way to round
    const double size = std::ldexp(static_cast<double>(digits), -shift);
    return (a < 0) != (b < 0) ? -size : size;
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
    double whole = (a - rest) / b;
    whole -= rest != 0 && (rest < 0) != (b < 0) ? 1 : 0;
    if (whole == 0) {
        return std::copysign(0.0, a / b);
    }
    const double down = std::floor(whole);
    return whole - down > 0.5 ? down + 1 : down;
}

}  // namespace

std::partial_ordering order_of_numbers(const value & a, const value & b) {
    if (is_float(a) && is_float(b)) {
        return a->val_flt <=> b->val_flt;
    }
    if (is_float(a)) {
        const std::partial_ordering other_way = order_of(b->val_int, a->val_flt);
        return other_way < 0 ? std::partial_ordering::greater : other_way > 0 ? std::partial_ordering::less : other_way;
    }
    return is_float(b) ? order_of(a->val_int, b->val_flt) : std::partial_ordering(a->val_int <=> b->val_int);
}

std::optional<value> of_numbers(const std::string & op, const value & a, const value & b) {
    const bool has_truth_value = jinja::is_val<jinja::value_bool>(a) || jinja::is_val<jinja::value_bool>(b);
    const bool divides = op == "/" || op == "//" || op == "%";
    if (has_truth_value || (!divides && op != "+" && op != "-" && op != "*")) {
        return std::nullopt;
    }
    const double x = as_double(a);
    const double y = as_double(b);
    if (divides && y == 0) {
        refuse("it divides by zero");
    }
    if (!is_float(a) && !is_float(b)) {
        return op == "/" ? float_value(quotient(a->val_int, b->val_int)) : of_integers(op[0], a->val_int, b->val_int);
    }
    if (op == "%") {
        const double rest = std::fmod(x, y);
        return float_value(rest == 0 ? std::copysign(0.0, y) : (rest < 0) != (y < 0) ? rest + y : rest);
    }
    return float_value(op == "+"   ? x + y
                       : op == "-" ? x - y
                       : op == "*" ? x * y
                       : op == "/" ? x / y
                                   : whole_quotient(x, y));
}

double as_double(const value & number) {
    return is_float(number) ? number->val_flt : static_cast<double>(number->val_int);
}

value float_value(double x) {
    // The engine makes an integer of each, which one of 2^63 and more has none of.
    const auto number = jinja::mk_val<jinja::value_float>(std::abs(x) < two_to_63 ? x : 0.0);
    number->val_flt = x;
    return number;
}

value whole_number(double x) {
    if (!(x >= -two_to_63 && x < two_to_63)) {
        refuse("it makes an integer beyond 64 bits");
    }
    return jinja::mk_val<jinja::value_int>(static_cast<int64_t>(x));
}

}  // namespace livekv
