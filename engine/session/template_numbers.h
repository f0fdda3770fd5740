#pragma once

#include <jinja/value.h>

#include <compare>
#include <optional>
#include <string>

namespace livekv {

// Numbers as Python counts with them: whole ones of 64 bits stay whole, where the engine takes those beyond 2^53 for
// infinite.

// By value, whatever the types; truth values count as 0 and 1. Unordered: one is no number (nan).
std::partial_ordering order_of_numbers(const jinja::value & a, const jinja::value & b);

// a op b for +, -, *, /, // and %. None: another operation, or a truth value. Throws jinja::raised_exception for a
// division by zero, and for integers beyond 64 bits.
std::optional<jinja::value> of_numbers(const std::string & op, const jinja::value & a, const jinja::value & b);

// The number as Python's float() makes it, to the nearest.
double as_double(const jinja::value & number);
jinja::value float_value(double x);

// As int(x): towards zero. Throws jinja::raised_exception beyond 64 bits. x: no nan.
jinja::value whole_number(double x);

}  // namespace livekv
