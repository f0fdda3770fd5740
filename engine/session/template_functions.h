#pragma once

#include <jinja/runtime.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

namespace livekv {

// What a template's functions were called with, by position and by name.
struct given_arguments {
    explicit given_arguments(const std::vector<jinja::value> & all);

    // The argument of that name or place; null where there is none. none counts as given.
    jinja::value get(const char * name, size_t place) const;
    bool is_true(const char * name, size_t place) const;
    int64_t number(const char * name, size_t place, int64_t otherwise) const;  // throws where it is no integer
    // Throws where there are more, or others, than the function has.
    void require(const std::string & function, size_t most, std::initializer_list<const char *> names) const;

    std::vector<jinja::value> in_order;
    std::map<std::string, jinja::value> by_name;
};

enum class call_kind { filter, method };

// Functions that work on characters, keep what the engine knows of a text's origin, and give what Python's give, in
// place of the engine's of the same name. input: what the filter or method is of. None: there is no such function
// here. Throw jinja::raised_exception for what Python refuses, and for what is not done here, by name.
std::optional<jinja::value> text_function(const std::string & name, call_kind kind, const jinja::value & input,
                                          const given_arguments & arguments);
std::optional<jinja::value> list_function(const std::string & name, call_kind kind, const jinja::value & input,
                                          const given_arguments & arguments, jinja::context & ctx);

// Either of them. name: an alias, too.
std::optional<jinja::value> own_function(const std::string & name, call_kind kind, const jinja::value & input,
                                         const std::vector<jinja::value> & arguments, jinja::context & ctx);

// A method of texts that text_function has and the engine not.
bool is_own_method(const std::string & name);

// Any function: true where it is asked for, which the engine's are not.
struct true_function : jinja::value_func_t {
    using jinja::value_func_t::value_func_t;
    bool as_bool() const override { return true; }
};

// Takes from the budget of the run what looking at all of a text, or of a list's texts, costs.
void step_for(const jinja::value & v);

// The items that Python's iter gives: of an object its keys, of a text its characters, of what is undefined none.
// function: for the message where there are none.
std::vector<jinja::value> items_of(const jinja::value & v, const std::string & function);

// To be called where a template looks at what a list holds, or asks whether it is one: it is made for lists then.
void look_into(const jinja::value & v);

jinja::value text_value(jinja::string text);

// One more, behind: neighbours of one origin become one part.
void append_text(jinja::string & text, const jinja::string & more);

[[noreturn]] void refuse(const std::string & why);

}  // namespace livekv
