#include "session/template_input.h"

#include <algorithm>

#include "error.h"
#include "session/template_numbers.h"
#include "utf8.h"

namespace livekv {

namespace {

using json = nlohmann::ordered_json;

constexpr const char * common_roles[] = {"system", "developer", "user", "assistant", "tool", "ipython", "function"};

void check_messages(const std::vector<chat_message> & messages) {
    if (messages.empty()) {
        fail("the conversation has no messages");
    }
    for (const chat_message & message : messages) {
        if (first_invalid_utf8(message.role)) {
            fail("the role of a message is not UTF-8");
        }
        if (first_invalid_utf8(message.content)) {
            fail("a message of the role '", message.role, "' is not UTF-8");
        }
    }
}

// All that read a value recurse, copies too: too deep is refused while it is parsed.
json parsed(const std::string & text) {
    constexpr int max_depth = 90;  // template_budget.h has room for a few more
    return json::parse(text, [](int depth, json::parse_event_t event, const json & value) {
        if (depth > max_depth) {
            fail("the values a chat template is given nest too deeply");
        }
        if (event == json::parse_event_t::value && value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX) {
            fail("a chat template is given ", value.get<uint64_t>(), ", a whole number of 2^63 or more");
        }
        return true;
    });
}

json json_of(const chat_message & message) {
    json object = json::object();
    json more = json::object();
    if (!message.more.empty()) {
        try {
            more = parsed(message.more);
        } catch (const json::exception &) {
            more = nullptr;  // refused as what is no object
        }
    }
    if (!more.is_object()) {
        fail("what a message holds beside its content is no JSON object");
    }
    if (!more.contains("role")) {
        object["role"] = message.role;
    }
    if (!more.contains("content")) {
        object["content"] = message.content;
    }
    object.update(more);
    object["role"] = message.role;  // the one that was checked
    return object;
}

json parse_variables(const std::string & variables) {
    if (variables.empty()) {
        return json::object();
    }
    json object;
    try {
        object = parsed(variables);
    } catch (const json::exception &) {
        object = nullptr;  // refused as what is no object
    }
    if (!object.is_object()) {
        fail("the variables of a chat template are no JSON object");
    }
    for (const char * name : {"messages", "add_generation_prompt", "bos_token", "eos_token"}) {
        if (object.contains(name)) {
            fail("the variable '", name, "' of a chat template is given by the conversation and the model");
        }
    }
    return object;
}

jinja::value given_text(const std::string & text) {
    const auto v = jinja::mk_val<jinja::value_string>(text);
    v->mark_input();
    return v;
}

jinja::value value_of(const json & j, disguise & as) {
    using namespace jinja;
    if (j.is_boolean()) {
        return mk_val<value_bool>(j.get<bool>());
    }
    if (j.is_number_integer()) {
        return mk_val<value_int>(j.get<int64_t>());
    }
    if (j.is_number()) {
        return float_value(j.get<double>());
    }
    if (j.is_string()) {
        return given_text(as.text(j.get_ref<const std::string &>()));
    }
    if (j.is_array()) {
        const auto list = mk_val<value_array>();
        for (const auto & item : j) {
            list->push_back(value_of(item, as));
        }
        return list;
    }
    if (j.is_object()) {
        const auto object = mk_val<value_object>();
        for (const auto & [key, item] : j.items()) {
            object->insert(given_text(as.key(key)), value_of(item, as));
        }
        return object;
    }
    return mk_val<value_none>();
}

bool is_parts(const json & content) {
    return content.is_array() && std::ranges::all_of(content, [](const json & part) {
               return part.is_object() && part.value("type", json()) == "text" && part.contains("text") &&
                      part["text"].is_string();
           });
}

// Their type is no text of the conversation's: templates compare it.
jinja::value value_of_parts(const json & parts, disguise & as) {
    const auto list = jinja::mk_val<jinja::value_array>();
    for (const json & part : parts) {
        const auto object = jinja::mk_val<jinja::value_object>();
        for (const auto & [key, item] : part.items()) {
            if (key == "type") {
                object->insert(key, jinja::mk_val<jinja::value_string>("text"));
            } else {
                object->insert(given_text(as.key(key)), value_of(item, as));
            }
        }
        list->push_back(object);
    }
    return list;
}

template <typename F>
void each_text(const json & j, F & f) {
    if (j.is_string()) {
        f(j.get_ref<const std::string &>());
    }
    if (j.is_object()) {
        for (const auto & [key, item] : j.items()) {
            f(key);
            each_text(item, f);
        }
    }
    if (j.is_array()) {
        for (const auto & item : j) {
            each_text(item, f);
        }
    }
}

}  // namespace

template_input::template_input(const std::vector<chat_message> & messages, const std::string & variables,
                               const std::set<std::string> & own_roles)
    : now(std::time(nullptr)), own_roles_(own_roles), messages_(json::array()) {
    check_messages(messages);
    variables_ = parse_variables(variables);
    for (const chat_message & message : messages) {
        messages_.push_back(json_of(message));
        nones_.push_back(messages_.back()["content"].is_null() ? jinja::mk_val<jinja::value_none>() : nullptr);
    }
}

bool template_input::join_parts(bool all) {
    bool has_joined = false;
    for (size_t i = 0; i < lists_.size(); ++i) {
        if (!lists_[i] || (lists_[i]->stats.used && !all)) {
            continue;
        }
        std::string text;
        for (const json & part : messages_[i]["content"]) {
            text += part["text"].get_ref<const std::string &>();
        }
        messages_[i]["content"] = text;
        has_joined = true;
    }
    return has_joined;
}

bool template_input::fill_nones(bool only_written) {
    bool has_filled = false;
    for (size_t i = 0; i < nones_.size(); ++i) {
        if (nones_[i] && (nones_[i]->stats.used || !only_written)) {
            messages_[i]["content"] = "";
            nones_[i] = nullptr;
            has_filled = true;
        }
    }
    return has_filled;
}

bool template_input::is_known(const std::string & role) const {
    return std::ranges::find(common_roles, role) != std::end(common_roles) || own_roles_.contains(role);
}

std::optional<std::string> template_input::dropped_role(std::string_view written) const {
    size_t from = 0;  // messages are mostly written in their order, and texts may be long
    const auto is_written = [&](std::string_view text) {
        constexpr const char * white_space = " \t\r\n";  // templates take it off both ends
        const size_t begin = std::min(text.find_first_not_of(white_space), text.size());
        text = text.substr(begin, text.find_last_not_of(white_space) + 1 - begin);
        size_t at = written.find(text, from);
        at = at == std::string_view::npos ? written.find(text) : at;
        from = at == std::string_view::npos ? from : at;
        return at != std::string_view::npos;
    };
    for (const json & message : messages_) {
        const auto & role = message["role"].get_ref<const std::string &>();
        if (is_known(role)) {
            continue;
        }
        const json & content = message["content"];
        std::vector<std::string_view> texts;
        if (content.is_string()) {
            texts.push_back(content.get_ref<const std::string &>());
        }
        for (size_t i = 0; is_parts(content) && i < content.size(); ++i) {
            texts.push_back(content[i]["text"].get_ref<const std::string &>());
        }
        if (!std::ranges::all_of(texts, is_written)) {
            return role;
        }
    }
    return std::nullopt;
}

// Texts and keys, but for the keys every message has, and the roles that are known.
template <typename F>
void template_input::for_each_text(F f) const {
    for (const auto & message : messages_) {
        for (const auto & [key, item] : message.items()) {
            if (key != "role" && key != "content") {
                f(key);
            }
            if (key != "role" || !is_known(item.template get_ref<const std::string &>())) {
                each_text(item, f);
            }
        }
    }
    for (const auto & [name, value] : variables_.items()) {
        each_text(value, f);
    }
}

jinja::value template_input::messages(disguise & as) const {
    const auto list = jinja::mk_val<jinja::value_array>();
    lists_.assign(messages_.size(), nullptr);
    for (size_t i = 0; i < messages_.size(); ++i) {
        const auto object = jinja::mk_val<jinja::value_object>();
        for (const auto & [key, item] : messages_[i].items()) {
            if (key == "role") {
                const auto & role = item.get_ref<const std::string &>();
                object->insert(key,
                               is_known(role) ? jinja::mk_val<jinja::value_string>(role) : given_text(as.text(role)));
            } else if (key == "content" && is_parts(item)) {
                lists_[i] = value_of_parts(item, as);
                object->insert(key, lists_[i]);
            } else if (key == "content") {
                object->insert(key, nones_[i] ? nones_[i] : value_of(item, as));
            } else {
                object->insert(given_text(as.key(key)), value_of(item, as));
            }
        }
        list->push_back(object);
    }
    return list;
}

std::vector<std::pair<std::string, jinja::value>> template_input::variables(disguise & as) const {
    std::vector<std::pair<std::string, jinja::value>> all;
    for (const auto & [name, value] : variables_.items()) {
        all.emplace_back(name, value_of(value, as));
    }
    return all;
}

bool template_input::has_any_of(const control_alphabet & control) const {
    bool found = false;
    for_each_text([&](const std::string & text) { found = found || control.in_any(text); });
    return found;
}

void template_input::add_private_use(std::set<char32_t> & taken) const {
    for_each_text([&](const std::string & text) { livekv::add_private_use(text, taken); });
}

std::string template_input::spelled(const control_alphabet & control) const {
    std::string found;
    for_each_text([&](const std::string & text) {
        for (const std::string & token : control.tokens) {
            if (found.empty() && text.find(token) != std::string::npos) {
                found = token;
            }
        }
    });
    return found;
}

}  // namespace livekv
