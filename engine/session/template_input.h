#pragma once

#include <jinja/value.h>

#include <ctime>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "session/chat_template.h"
#include "session/template_origin.h"

namespace livekv {

// What a chat template is given by a conversation, checked: its messages and the other variables.
class template_input {
  public:
    // own_roles: the roles the template names, beside the ones that any may be asked for. Throws livekv::error for no
    // messages, another role, text that is not UTF-8, variables that are no JSON object or that have a name of the
    // conversation's, and values that nest too deeply.
    template_input(const std::vector<chat_message> & messages, const std::string & variables,
                   const std::set<std::string> & own_roles);

    // Lists of objects, with their texts in disguise but for the roles of messages: templates make control tokens of
    // those. Texts and keys count as given (is_input). A content that is none is the same value in every run.
    jinja::value messages(disguise & as) const;
    std::vector<std::pair<std::string, jinja::value>> variables(disguise & as) const;

    // Contents that are lists of {"type": "text", "text": ...} parts become texts, the parts joined: all of them, or
    // those that the last run did not look into. False: there are no such.
    bool join_parts(bool all);

    // Empty texts for contents that are none: all of them, or those a run has written out. False: there are no such.
    bool fill_nones(bool only_written);

    bool has_any_of(const control_alphabet & control) const;  // whether a text or a key has such a character
    void add_private_use(std::set<char32_t> & taken) const;
    // One of the control tokens that a text spells out; "" when there is none.
    std::string spelled(const control_alphabet & control) const;

    const std::time_t now;  // for strftime_now, the same whenever it is run

  private:
    template <typename F>
    void for_each_text(F f) const;  // and key

    nlohmann::ordered_json messages_;
    mutable std::vector<jinja::value> lists_;  // of each message: its content as the last run got it, where it is parts
    std::vector<jinja::value> nones_;          // of each message: its content where that is none, otherwise nothing
    nlohmann::ordered_json variables_;
};

}  // namespace livekv
