#pragma once

#include <jinja/runtime.h>

#include <optional>
#include <string>
#include <vector>

namespace livekv {

// a op b as Python has it, where the engine's differs: ==, !=, ~, in, not in, what of_numbers has, and the order of
// numbers and of texts. None: the engine's is right. Throws jinja::raised_exception for what Python refuses, and for
// integers beyond 64 bits.
std::optional<jinja::value> own_operation(const std::string & op, const jinja::value & a, const jinja::value & b);

// v[start:stop:step] of a list or a text, by characters; null or none: left out. None: v is neither.
std::optional<jinja::value> own_slice(const jinja::value & v, const jinja::value & start, const jinja::value & stop,
                                      const jinja::value & step);

// v[i] of a text, by characters: undefined beyond its ends.
jinja::value character_at(const jinja::value & v, int64_t i);

// What range() gives, and how Python spells it.
struct range_list final : jinja::value_array_t {
    range_list(std::vector<jinja::value> && items, const std::vector<jinja::value> & arguments);
    std::string spelled;
};

}  // namespace livekv
