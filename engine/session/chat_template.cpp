#include "session/chat_template.h"

#include <jinja/lexer.h>
#include <jinja/parser.h>
#include <jinja/runtime.h>

#include <algorithm>
#include <exception>
#include <iterator>
#include <optional>
#include <set>
#include <string_view>

#include "error.h"
#include "model/tokenizer.h"
#include "session/template_budget.h"
#include "session/template_input.h"
#include "session/template_limits.h"
#include "session/template_nodes.h"
#include "session/template_origin.h"
#include "session/template_scope.h"
#include "session/template_tokens.h"
#include "utf8.h"

namespace livekv {

namespace {

// What a template refuses by raise_exception.
class template_refusal : public error {
  public:
    using error::error;
};

constexpr std::string_view refusal_mark = "Jinja Exception: ";

// The engine's messages quote the template over several lines; what went wrong is in the first, or behind "Error:".
std::string reason_of(const std::exception & e) {
    std::string text = e.what();
    for (const std::string_view mark : {std::string_view("\nError: "), refusal_mark}) {
        const size_t at = text.rfind(mark);
        text.erase(0, at == std::string::npos ? 0 : at + mark.size());
    }
    text.erase(0, text.find_first_not_of("\n"));
    text = text.substr(0, text.find('\n'));
    // It calls types by their C++ names.
    const std::string type_begin = "St10shared_ptrIN5jinja";
    const std::string type_end = "_tEE";
    for (size_t at; (at = text.find(type_begin)) != std::string::npos;) {
        const size_t name = text.find("value_", at);
        const size_t end = text.find(type_end, at);
        if (name == std::string::npos || end == std::string::npos || name > end) {
            break;
        }
        text.replace(at, end + type_end.size() - at, text.substr(name + 6, end - name - 6));
    }
    return text;
}

// none: the file's own template is run.
chat_family family_for(const tokenizer & tok, bool for_tools) {
    if (has_own_chat_template(tok, for_tools)) {
        return chat_family::none;
    }
    const chat_family family = detect_chat_family(tok.chat_template(), tok);
    if (family == chat_family::none) {
        fail("the model has no chat template, nor the marks of a family livekv knows; give it a plain prompt");
    }
    return family;
}

// The keys it may look up, and the texts written out in it.
template_words words_of(const std::vector<jinja::token> & tokens) {
    template_words words;
    for (size_t i = 0; i < tokens.size(); ++i) {
        const jinja::token & t = tokens[i];
        if (t.t == jinja::token::string_literal) {
            words.keys.insert(t.value);
            if (t.value.size() > 1) {
                words.literals.insert(t.value);
            }
        }
        if (t.t == jinja::token::identifier && i > 0 && tokens[i - 1].t == jinja::token::dot) {
            words.keys.insert(t.value);
        }
    }
    return words;
}

// Its words that may be roles. They reach it as they are, so none may hold a control token.
std::set<std::string> roles_of(const template_words & words, const control_alphabet & control) {
    std::set<std::string> roles;
    std::ranges::copy_if(words.literals, std::inserter(roles, roles.end()), [&](const std::string & word) {
        const auto is_in_names = [](char c) {
            return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
        };
        const auto is_in_word = [&](const std::string & token) { return word.find(token) != std::string::npos; };
        return std::ranges::all_of(word, is_in_names) && std::ranges::none_of(control.tokens, is_in_word);
    });
    return roles;
}

std::set<std::string> names_of(const std::vector<jinja::token> & tokens) {
    std::set<std::string> names;
    for (const jinja::token & t : tokens) {
        if (t.t == jinja::token::identifier || t.t == jinja::token::string_literal) {
            names.insert(t.value);
        }
    }
    return names;
}

std::vector<int32_t> controls_of(const tokenizer & tok, const std::vector<int32_t> & marks,
                                 const std::vector<int32_t> & ids) {
    std::vector<int32_t> controls;
    std::ranges::copy_if(ids, std::back_inserter(controls),
                         [&](int32_t id) { return tok.is_control(id) || std::ranges::find(marks, id) != marks.end(); });
    return controls;
}

}  // namespace

struct chat_template::program {
    std::string source;
    jinja::program statements;
    template_words words;
    std::vector<int32_t> marks;  // user-defined tokens that count as control tokens here
    control_alphabet control;
    std::set<std::string> roles;
    std::set<std::string> names;
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

bool has_own_chat_template(const tokenizer & tok, bool for_tools) {
    return tok.chat_template(for_tools).find("messages") != std::string::npos;
}

std::string passed_over_template(const tokenizer & tok, bool for_tools) {
    if (has_own_chat_template(tok, for_tools)) {
        return "";
    }
    if (!tok.chat_template(for_tools).empty()) {
        return "the model's chat template reads no messages";
    }
    return tok.chat_template(/*for_tools=*/true).empty() ? "" : "the model's chat template is for tools alone";
}

bool has_chat_template(const tokenizer & tok) {
    return has_own_chat_template(tok) || has_own_chat_template(tok, /*for_tools=*/true) ||
           detect_chat_family(tok.chat_template(), tok) != chat_family::none;
}

chat_template::chat_template(const tokenizer & tok, bool for_tools)
    : chat_template(tok, family_for(tok, for_tools), tok.chat_template(for_tools)) {}

chat_template::chat_template(const tokenizer & tok, chat_family family) : chat_template(tok, family, {}) {}

chat_template::chat_template(const tokenizer & tok, const std::string & source)
    : chat_template(tok, chat_family::none, source) {}

chat_template::chat_template(const tokenizer & tok, chat_family family, const std::string & own) : tok_(tok) {
    const std::string source = family == chat_family::none ? own : chat_family_template(family);
    if (first_invalid_utf8(source)) {
        fail("the model's chat template is not UTF-8");
    }
    try {
        const jinja::lexer_result tokens = template_tokens(source);
        limit_nesting(tokens);
        jinja::program statements = jinja::parse_from_tokens(tokens);
        put_on_budget(statements);
        const std::vector<int32_t> marks = user_defined_marks(family, tok);
        const template_words words = words_of(tokens.tokens);
        const control_alphabet control(tok, marks);
        program_ = std::make_unique<const program>(program{tokens.source, std::move(statements), words, marks, control,
                                                           roles_of(words, control), names_of(tokens.tokens)});
    } catch (const error &) {
        throw;
    } catch (const std::exception & e) {
        fail("the model's chat template cannot be read: ", reason_of(e));
    }
}

chat_template::~chat_template() = default;
chat_template::chat_template(chat_template && other) noexcept = default;

chat_text chat_template::run(const template_input & input, disguise & as, bool add_generation_prompt,
                             template_allowance & allowance) const {
    const auto special = [&](int32_t id) {
        return jinja::mk_val<jinja::value_string>(id < 0 ? std::string()
                                                         : replace_invalid_utf8(tok_.token_bytes(id, true)));
    };
    chat_text text;
    try {
        jinja::context context(program_->source);
        context.current_time = input.now;
        const jinja::value list = input.messages(as);
        const auto others = input.variables(as);
        const auto all = jinja::mk_val<jinja::value_array>();
        all->push_back(list);
        for (const auto & [name, value] : others) {
            all->push_back(value);
        }
        const template_budget budget(all, allowance);
        const entered_scope scope(nullptr);
        context.set_val("tools", jinja::mk_val<jinja::value_none>());
        context.set_val("documents", jinja::mk_val<jinja::value_none>());
        context.set_val("messages", list);
        context.set_val("add_generation_prompt", jinja::mk_val<jinja::value_bool>(add_generation_prompt));
        context.set_val("bos_token", special(tok_.bos()));
        context.set_val("eos_token", special(tok_.eos()));
        if (tok_.unknown() >= 0) {
            context.set_val("unk_token", special(tok_.unknown()));
        }
        for (const auto & [name, value] : others) {
            context.set_val(name, value);
        }
        const jinja::value written = jinja::runtime(context).execute(program_->statements);
        const jinja::value_string joined = jinja::runtime::gather_string_parts(written);
        for (const jinja::string_part & part : joined->val_str.parts) {
            text.push_back({part.val, part.is_input});
        }
    } catch (const std::exception & e) {
        const std::string what = "the model's chat template: " + reason_of(e);
        if (std::string_view(e.what()).find(refusal_mark) != std::string_view::npos) {
            throw template_refusal(what);
        }
        throw error(what);
    }
    return text;
}

// A template that fails with a content that is none, or writes it out, needs texts: transformers would fail too there,
// or write "None". So does one that does not look into a content that is a list of parts, or cannot go on with it.
chat_text chat_template::run_with_texts(template_input & input, disguise & as, bool add_generation_prompt,
                                        template_allowance & allowance) const {
    std::exception_ptr with_lists;  // how it failed before the lists that it looks into became texts
    for (;;) {
        try {
            chat_text text = run(input, as, add_generation_prompt, allowance);
            const bool has_joined = input.join_parts(/*all=*/false);
            if (!input.fill_nones(/*only_written=*/true) && !has_joined) {
                return text;
            }
        } catch (const error & e) {
            if (allowance.is_spent) {
                throw;
            }
            const bool refuses = dynamic_cast<const template_refusal *>(&e) != nullptr;
            if (input.join_parts(/*all=*/false) || (!refuses && input.fill_nones(/*only_written=*/false))) {
                continue;
            }
            if (with_lists) {
                std::rethrow_exception(with_lists);
            }
            with_lists = std::current_exception();
            if (!input.join_parts(/*all=*/true)) {
                throw;
            }
        }
    }
}

size_t chat_template::bos_length(const chat_text & text) const {
    const std::string bos = tok_.adds_bos() ? tok_.token_bytes(tok_.bos(), true) : "";
    return !text.empty() && !text[0].from_message && text[0].text.starts_with(bos) ? bos.size() : 0;
}

std::string chat_template::without_bos(const chat_text & text) const {
    return str(behind(text, bos_length(text)));
}

// Written once more in disguise, which is found again in what the template writes: that is of the conversation, however
// it got there, and the rest is the template's. Where the template looks at what is in disguise, so that it writes
// something else, fewer characters are; then other letters in their place may not change the control tokens.
chat_text chat_template::render(const std::vector<chat_message> & messages, bool add_generation_prompt,
                                const std::string & variables) const {
    using kind = disguise::kind;
    const control_alphabet & control = program_->control;
    template_input input(messages, variables, program_->roles);
    template_allowance allowance;
    const std::set<char32_t> none_taken;
    disguise undisguised(kind::none, control, program_->words, none_taken);
    chat_text marked = run_with_texts(input, undisguised, add_generation_prompt, allowance);
    const std::string whole = str(marked);
    if (first_invalid_utf8(whole)) {
        fail("the model's chat template: it cuts a character in pieces");
    }
    if (const std::optional<std::string> role = input.dropped_role(whole)) {
        fail("the role '", *role, "' is not supported: the model's chat template does not write what it says");
    }
    if (!input.has_any_of(control)) {
        return {{whole, false}};  // no character of a control token can be of the conversation
    }

    std::set<char32_t> taken;
    input.add_private_use(taken);
    add_private_use(program_->source, taken);
    for (const std::string & token : control.tokens) {
        add_private_use(token, taken);
    }
    // What is written in disguise; nothing where the template refuses it so.
    const auto disguised = [&](disguise & as) -> std::optional<std::string> {
        try {
            std::string text = str(run(input, as, add_generation_prompt, allowance));
            return as.is_full() || first_invalid_utf8(text) ? std::nullopt : std::optional(std::move(text));
        } catch (const error &) {
            if (allowance.is_spent) {
                throw;
            }
            return std::nullopt;
        }
    };
    const auto traced = [&](kind which) -> std::optional<chat_text> {
        disguise as(which, control, program_->words, taken);
        const std::optional<std::string> text = disguised(as);
        return text && as.back(*text) == whole ? std::optional(as.pieces(*text)) : std::nullopt;
    };
    if (std::optional<chat_text> text = traced(kind::all)) {
        return *text;
    }
    disguise as(kind::harmless, control, program_->words, taken);
    const std::optional<std::string> harmless = disguised(as);
    if (harmless) {
        const std::vector<int32_t> expected = controls_of(tok_, program_->marks, encode(as.pieces(*harmless)));
        const auto is_expected = [&](const chat_text & text) {
            return controls_of(tok_, program_->marks, encode(text)) == expected;
        };
        for (const kind which : {kind::control, kind::marks, kind::most}) {
            std::optional<chat_text> text = traced(which);
            if (text && is_expected(*text)) {
                return *text;
            }
        }
        if (is_expected(marked)) {
            return marked;
        }
    }
    const std::string token = input.spelled(control);
    fail(token.empty() ? std::string("a message has parts of control tokens") : "a message says '" + token + "'",
         ", which this model's chat template would make a control token");
}

bool chat_template::says(const std::string & name) const {
    return program_->names.contains(name);
}

std::vector<int32_t> chat_template::encode(const chat_text & text, int32_t behind) const {
    std::vector<text_part> parts;
    for (const chat_piece & piece : text) {
        parts.push_back({piece.text, !piece.from_message});
    }
    const bool add_bos = behind < 0 && bos_length(text) == 0;
    return tok_.encode(parts, {.add_bos = add_bos, .add_eos = false, .behind = behind, .marks = program_->marks});
}

}  // namespace livekv
