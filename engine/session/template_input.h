#pragma once

#include <jinja/value.h>

#include <ctime>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "session/chat_template.h"
#include "session/template_origin.h"

namespace livekv {

// What a chat template is given by a conversation, checked: its messages and the other variables.
class template_input {
  public:
    // own_roles: those that the template names. Throws livekv::error for no messages, text that is not UTF-8, variables
    // that are no JSON object or that have a name of the conversation's, and values that nest too deeply.
    template_input(const std::vector<chat_message> & messages, const std::string & variables,
                   const std::set<std::string> & own_roles);

    // Lists of objects, with their texts in disguise but for roles that are common or the template's own: templates
    // make control tokens of those. Texts and keys count as given (is_input). A content that is none is the same value
    // in every run.
    jinja::value messages(disguise & as) const;
    std::vector<std::pair<std::string, jinja::value>> variables(disguise & as) const;

    // Contents that are lists of {"type": "text", "text": ...} parts become texts, the parts joined: all of them, or
    // those that the last run did not look into. False: there are no such.
    bool join_parts(bool all);

    // Empty texts for contents that are none: all of them, or those a run has written out. False: there are no such.
    bool fill_nones(bool only_written);

    // The first role that is neither common nor the template's own and whose content is not in what was written; none:
    // there is no such. A template drops what it has no place for without a word.
    std::optional<std::string> dropped_role(std::string_view written) const;

    bool has_any_of(const control_alphabet & control) const;  // whether a text or a key has such a character
    void add_private_use(std::set<char32_t> & taken) const;
    // One of the control tokens that a text spells out; "" when there is none.
    std::string spelled(const control_alphabet & control) const;

    const std::time_t now;  // for strftime_now, the same whenever it is run

  private:
    bool is_known(const std::string & role) const;

    template <typename F>
    void for_each_text(F f) const;  // and key

    const std::set<std::string> own_roles_;
    nlohmann::ordered_json messages_;
    mutable std::vector<jinja::value> lists_;  // of each message: its content as the last run got it, where it is parts
    std::vector<jinja::value> nones_;          // of each message: its content where that is none, otherwise nothing
    nlohmann::ordered_json variables_;
};

}  // namespace livekv
