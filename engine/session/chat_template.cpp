#include "session/chat_template.h"

#include <jinja/lexer.h>
#include <jinja/parser.h>
#include <jinja/runtime.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "error.h"
#include "model/tokenizer.h"
#include "session/template_budget.h"
#include "session/template_limits.h"
#include "session/template_nodes.h"

namespace livekv {

namespace {

constexpr const char * known_roles[] = {"system", "developer", "user", "assistant", "tool", "ipython", "function"};

void check_roles(const std::vector<chat_message> & messages) {
    if (messages.empty()) {
        fail("the conversation has no messages");
    }
    for (const chat_message & message : messages) {
        if (std::ranges::find(known_roles, message.role) == std::end(known_roles)) {
            fail("the role '", message.role, "' is not supported, supported are system, user, assistant and tool");
        }
    }
}

// The engine's messages quote the template over several lines; what went wrong is in the first, or behind "Error:".
std::string reason_of(const std::exception & e) {
    std::string text = e.what();
    for (const std::string mark : {"\nError: ", "Jinja Exception: "}) {
        const size_t at = text.rfind(mark);
        text.erase(0, at == std::string::npos ? 0 : at + mark.size());
    }
    text.erase(0, text.find_first_not_of("\n"));
    const size_t end = text.find('\n');
    return text.substr(0, end);
}

// from_message: strings count as a message's, but for those of a role, of which templates make control tokens.
jinja::value value_of(const nlohmann::ordered_json & j, bool from_message) {
    using namespace jinja;
    if (j.is_boolean()) {
        return mk_val<value_bool>(j.get<bool>());
    }
    if (j.is_number_integer() && !(j.is_number_unsigned() && j.get<uint64_t>() > INT64_MAX)) {
        return mk_val<value_int>(j.get<int64_t>());
    }
    if (j.is_number()) {
        // The engine makes an integer of each, which one of 2^63 and more has none of.
        const double x = j.get<double>();
        const auto number = mk_val<value_float>(std::abs(x) < 0x1p63 ? x : 0.0);
        number->val_flt = x;
        return number;
    }
    if (j.is_string()) {
        const auto text = mk_val<value_string>(j.get<std::string>());
        if (from_message) {
            text->mark_input();
        }
        return text;
    }
    if (j.is_array()) {
        const auto list = mk_val<value_array>();
        for (const auto & item : j) {
            list->push_back(value_of(item, from_message));
        }
        return list;
    }
    if (j.is_object()) {
        const auto object = mk_val<value_object>();
        for (const auto & [key, item] : j.items()) {
            object->insert(key, value_of(item, from_message && key != "role"));
        }
        return object;
    }
    return mk_val<value_none>();
}

// All that read a value recurse, copies too: too deep is refused while it is parsed.
nlohmann::ordered_json parsed(const std::string & text) {
    constexpr int max_depth = 90;  // template_budget.h has room for a few more
    using json = nlohmann::ordered_json;
    return json::parse(text, [](int depth, json::parse_event_t, const json &) {
        if (depth > max_depth) {
            fail("the values a chat template is given nest too deeply");
        }
        return true;
    });
}

nlohmann::ordered_json json_of(const chat_message & message) {
    nlohmann::ordered_json object = {{"role", message.role}, {"content", message.content}};
    if (!message.more.empty()) {
        object.update(parsed(message.more));
    }
    return object;
}

std::string source_for(const tokenizer & tok, bool for_tools) {
    if (has_own_chat_template(tok)) {
        return tok.chat_template(for_tools);
    }
    const chat_family family = detect_chat_family(tok.chat_template(), tok);
    if (family == chat_family::none) {
        fail("the model has no chat template, nor the marks of a family livekv knows; give it a plain prompt");
    }
    return chat_family_template(family);
}

// What else the template may read. Throws livekv::error for what is no JSON object and for names that are taken.
nlohmann::ordered_json parse_variables(const std::string & variables) {
    if (variables.empty()) {
        return nlohmann::ordered_json::object();
    }
    nlohmann::ordered_json object;
    try {
        object = parsed(variables);
    } catch (const nlohmann::ordered_json::exception &) {
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

// The texts in j that hold control tokens replaced by another word. found: the last of those tokens.
void make_harmless(nlohmann::ordered_json & j, const tokenizer & tok, std::string & found) {
    if (j.is_string()) {
        for (const int32_t id : tok.encode(j.get<std::string>(), /*add_special=*/false, /*parse_special=*/true)) {
            if (tok.is_control(id)) {
                found = tok.token_bytes(id, true);
                j = "x";
                return;
            }
        }
    }
    if (j.is_object()) {
        auto harmless = nlohmann::ordered_json::object();
        for (auto & [key, value] : j.items()) {
            nlohmann::ordered_json name = key;
            make_harmless(name, tok, found);
            make_harmless(value, tok, found);
            harmless[name.get<std::string>()] = value;
        }
        j = harmless;
    }
    if (j.is_array()) {
        for (auto & item : j) {
            make_harmless(item, tok, found);
        }
    }
}

int64_t count_control(const tokenizer & tok, const std::vector<int32_t> & ids) {
    return std::ranges::count_if(ids, [&](int32_t id) { return tok.is_control(id); });
}

}  // namespace

struct chat_template::program {
    std::string source;
    jinja::program statements;
};

std::string str(const chat_text & text) {
    std::string whole;
    for (const chat_piece & piece : text) {
        whole += piece.text;
    }
    return whole;
}

chat_text behind(const chat_text & text, size_t n) {
    chat_text rest;
    for (const chat_piece & piece : text) {
        const size_t skipped = std::min(n, piece.text.size());
        n -= skipped;
        if (skipped < piece.text.size()) {
            rest.push_back({piece.text.substr(skipped), piece.from_message});
        }
    }
    return rest;
}

bool has_own_chat_template(const tokenizer & tok) {
    return tok.chat_template().find("messages") != std::string::npos;
}

bool has_chat_template(const tokenizer & tok) {
    return has_own_chat_template(tok) || detect_chat_family(tok.chat_template(), tok) != chat_family::none;
}

chat_template::chat_template(const tokenizer & tok, bool for_tools) : chat_template(tok, source_for(tok, for_tools)) {}

chat_template::chat_template(const tokenizer & tok, chat_family family)
    : chat_template(tok, std::string(chat_family_template(family))) {}

chat_template::chat_template(const tokenizer & tok, const std::string & source) : tok_(tok) {
    try {
        const jinja::lexer_result tokens = jinja::lexer().tokenize(source);
        limit_nesting(tokens);
        jinja::program statements = jinja::parse_from_tokens(tokens);
        put_on_budget(statements);
        program_ = std::make_unique<const program>(program{tokens.source, std::move(statements)});
    } catch (const error &) {
        throw;
    } catch (const std::exception & e) {
        fail("the model's chat template cannot be read: ", reason_of(e));
    }
}

chat_template::~chat_template() = default;
chat_template::chat_template(chat_template && other) noexcept = default;

chat_text chat_template::run(const std::vector<chat_message> & messages, bool add_generation_prompt,
                             const std::string & variables) const {
    const auto special = [&](int32_t id) {
        return jinja::mk_val<jinja::value_string>(id < 0 ? std::string() : tok_.token_bytes(id, true));
    };
    const nlohmann::ordered_json given = parse_variables(variables);
    chat_text text;
    try {
        jinja::context context(program_->source);
        const auto list = jinja::mk_val<jinja::value_array>();
        for (const chat_message & message : messages) {
            list->push_back(value_of(json_of(message), /*from_message=*/true));
        }
        const auto input = jinja::mk_val<jinja::value_array>();
        input->push_back(list);
        std::vector<std::pair<std::string, jinja::value>> others;
        for (const auto & [name, value] : given.items()) {
            others.emplace_back(name, value_of(value, /*from_message=*/true));
            input->push_back(others.back().second);
        }
        const template_budget budget(input);
        context.set_val("tools", jinja::mk_val<jinja::value_none>());
        context.set_val("documents", jinja::mk_val<jinja::value_none>());
        for (const auto & [name, value] : others) {
            context.set_val(name, value);
        }
        context.set_val("messages", list);
        context.set_val("add_generation_prompt", jinja::mk_val<jinja::value_bool>(add_generation_prompt));
        context.set_val("bos_token", special(tok_.bos()));
        context.set_val("eos_token", special(tok_.eos()));
        const jinja::value written = jinja::runtime(context).execute(program_->statements);
        const jinja::value_string joined = jinja::runtime::gather_string_parts(written);
        for (const jinja::string_part & part : joined->val_str.parts) {
            text.push_back({part.val, part.is_input});
        }
    } catch (const std::exception & e) {
        fail("the model's chat template: ", reason_of(e));
    }
    return text;
}

size_t chat_template::bos_length(const chat_text & text) const {
    const std::string bos = tok_.adds_bos() ? tok_.token_bytes(tok_.bos(), true) : "";
    return !text.empty() && !text[0].from_message && text[0].text.starts_with(bos) ? bos.size() : 0;
}

std::string chat_template::without_bos(const chat_text & text) const {
    return str(behind(text, bos_length(text)));
}

// A template may build new strings of what it is given, and lose where it came from. With another word in place of
// every text that holds control tokens there must be as many of them.
void chat_template::require_no_control(const std::vector<chat_message> & messages, bool add_generation_prompt,
                                       const std::string & variables, const chat_text & text) const {
    std::string found;
    const auto harmless_json = [&](nlohmann::ordered_json j) {
        make_harmless(j, tok_, found);
        return j;
    };
    std::vector<chat_message> harmless = messages;
    for (chat_message & message : harmless) {
        message.content = harmless_json(message.content).get<std::string>();
        if (!message.more.empty()) {
            message.more = harmless_json(parsed(message.more)).dump();
        }
    }
    const std::string harmless_variables = harmless_json(parse_variables(variables)).dump();
    if (found.empty()) {
        return;
    }
    const int64_t n_expected = count_control(tok_, encode(run(harmless, add_generation_prompt, harmless_variables)));
    if (count_control(tok_, encode(text)) != n_expected) {
        fail("a message says '", found, "', which this model's chat template would make a control token");
    }
}

chat_text chat_template::render(const std::vector<chat_message> & messages, bool add_generation_prompt,
                                const std::string & variables) const {
    check_roles(messages);
    chat_text text = run(messages, add_generation_prompt, variables);
    require_no_control(messages, add_generation_prompt, variables, text);
    return text;
}

std::vector<int32_t> chat_template::encode(const chat_text & text, int32_t behind) const {
    std::vector<text_part> parts;
    for (const chat_piece & piece : text) {
        parts.push_back({piece.text, !piece.from_message});
    }
    const bool add_bos = behind < 0 && bos_length(text) == 0;
    return tok_.encode(parts, {.add_bos = add_bos, .add_eos = false, .behind = behind});
}

}  // namespace livekv
