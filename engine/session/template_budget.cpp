#include "session/template_budget.h"

#include <jinja/runtime.h>

#include <algorithm>
#include <cstdlib>

#include "error.h"

namespace livekv {

namespace {

constexpr size_t node_bytes = 320;             // of a value beside its text
constexpr int max_depth = 100;                 // of lists and objects in one another
constexpr std::ptrdiff_t max_stack = 1 << 20;  // bytes of calls within calls; threads have 8 MiB

constexpr size_t most_value = size_t(8) << 20;

thread_local template_budget * on_this_thread = nullptr;

constexpr const char * too_much = "it takes more memory than any conversation needs";

}  // namespace

size_t bytes_of_text(const jinja::string & text) {
    return text.length() + sizeof(jinja::string_part) * text.parts.size();
}

namespace {

// Without what others hold too, and was counted when it was made.
size_t new_bytes(const jinja::value & v) {
    constexpr size_t item_bytes = 16;
    size_t sum = node_bytes + bytes_of_text(v->val_str);
    for (const jinja::value & one : v->val_arr) {
        sum += one.use_count() == 1 ? new_bytes(one) : item_bytes;
    }
    for (const auto & [key, one] : v->val_obj) {
        sum += one.use_count() <= 2 ? node_bytes + new_bytes(one) : node_bytes;  // an object lists it twice
    }
    return sum;
}

}  // namespace

template_budget::template_budget(const jinja::value & input, template_allowance & allowance)
    : allowance_(allowance),
      outer_(on_this_thread),
      max_value_(SIZE_MAX),
      bytes_left_(SIZE_MAX),
      steps_left_(SIZE_MAX) {
    const char here = 0;
    stack_ = &here;
    const size_t given = add_bytes(input, 0, 0);
    max_value_ = most_value + 8 * given;
    bytes_left_ = allowance.bytes + 256 * given;
    steps_left_ = allowance.steps + given;  // some hundred for each message
    on_this_thread = this;
}

template_budget::~template_budget() {
    on_this_thread = outer_;
    allowance_.bytes = std::min(allowance_.bytes, bytes_left_);
    allowance_.steps = std::min(allowance_.steps, steps_left_);
}

void template_budget::stop(const char * why) const {
    allowance_.is_spent = true;
    throw jinja::raised_exception(why);
}

template_budget & template_budget::running() {
    LIVEKV_ASSERT(on_this_thread);
    return *on_this_thread;
}

void template_budget::step(size_t n) {
    const char here = 0;
    if (std::abs(stack_ - &here) > max_stack) {
        throw jinja::raised_exception("its macros call each other without end");
    }
    if (n > steps_left_) {
        stop("it takes more steps than any conversation needs");
    }
    steps_left_ -= n;
}

void template_budget::require_room(double n_bytes) const {
    if (!(n_bytes <= static_cast<double>(max_value_))) {
        stop(too_much);
    }
}

void template_budget::took(size_t n_bytes) {
    if (n_bytes > bytes_left_) {
        stop(too_much);
    }
    bytes_left_ -= n_bytes;
}

void template_budget::made(const jinja::value & v) {
    bytes_of(v);
    took(new_bytes(v));
}

size_t template_budget::bytes_of(const jinja::value & v) {
    const size_t n = add_bytes(v, 0, 0);
    step(n / node_bytes / 64);
    return n;
}

size_t template_budget::add_bytes(const jinja::value & v, int depth, size_t sum) {
    if (depth > max_depth) {
        throw jinja::raised_exception("its lists nest too deeply");
    }
    sum += node_bytes + bytes_of_text(v->val_str);
    if (sum > max_value_) {
        stop(too_much);
    }
    if (const auto * named = jinja::cast_val<jinja::value_kwarg>(v)) {
        return add_bytes(named->val, depth, sum);
    }
    for (const jinja::value & one : v->val_arr) {
        sum = add_bytes(one, depth + 1, sum);
    }
    for (const auto & [key, one] : v->val_obj) {
        sum = add_bytes(one, depth + 1, add_bytes(key, depth + 1, sum));
    }
    return sum;
}

void refuse_cycle(const jinja::value & container, const jinja::value & v) {
    if (v == container || jinja::is_val<jinja::value_func>(v)) {
        throw jinja::raised_exception("a list or an object cannot hold itself, nor a function");
    }
    if (const auto * named = jinja::cast_val<jinja::value_kwarg>(v)) {
        refuse_cycle(container, named->val);
    }
    for (const jinja::value & one : v->val_arr) {
        refuse_cycle(container, one);
    }
    for (const auto & [key, one] : v->val_obj) {
        refuse_cycle(container, key);
        refuse_cycle(container, one);
    }
}

}  // namespace livekv
