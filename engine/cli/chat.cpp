#include "cli/chat.h"

#include <unistd.h>

#include <iostream>

#include "cli/generate_visibly.h"
#include "cli/interrupt.h"
#include "cli/tool.h"
#include "livekv.h"
#include "utf8.h"

namespace livekv {

namespace {

bool next_line(std::string & line) {
    if (::isatty(STDIN_FILENO)) {
        std::cerr << "\n> " << std::flush;
    }
    if (!std::getline(std::cin, line)) {
        return false;
    }
    if (line.ends_with('\r')) {
        line.pop_back();
    }
    return true;
}

std::string listed(const std::vector<std::string> & names) {
    std::string text;
    for (const std::string & name : names) {
        text += (text.empty() ? "" : ", ") + name;
    }
    return text;
}

chat_template own_template(const tokenizer & vocab) {
    try {
        return chat_template(vocab);
    } catch (const error & reason) {
        fail(reason.what(), "; or name a known format with --chat-template: ", listed(chat_family_names()));
    }
}

chat_template choose_template(const cli_options & options, const tokenizer & vocab) {
    if (options.chat_template != "own") {
        const chat_family family = chat_family_named(options.chat_template);
        if (const std::vector<std::string> missing = missing_marks(family, vocab); !missing.empty()) {
            std::cerr << "livekv-cli: warning: the vocabulary has no " << listed(missing)
                      << ": what marks the turns of " << options.chat_template << " chats is text to this model\n";
        }
        return {vocab, family};
    }
    chat_template format = own_template(vocab);
    if (!has_own_chat_template(vocab)) {
        const std::string reason = passed_over_template(vocab);
        std::cerr << "livekv-cli: " << (reason.empty() ? "the model has no template for conversations" : reason)
                  << ", by its marks its chats are of the family "
                  << chat_family_name(detect_chat_family(vocab.chat_template(), vocab)) << "\n";
    }
    return format;
}

// What a person who types should know of a turn.
void explain(const session & s, const chat_turn & turn) {
    if (turn.n_read_anew > 0) {
        std::cerr << "livekv-cli: the model's template rewrites former turns, " << turn.n_read_anew
                  << " tokens of them were read again\n";
    }
    if (turn.taken_back) {
        std::cerr << "livekv-cli: interrupted before the answer began, the message is taken back\n";
    }
    if (turn.result.reason == stop_reason::context_full) {
        std::cerr << "livekv-cli: the context of " << s.n_ctx() << " tokens is full\n";
    }
}

}  // namespace

generate_result converse(session & s, const cli_options & options) {
    const chat_template format = choose_template(options, s.get_model().vocab);
    chat talk(s, format);
    if (options.system_prompt) {
        require_utf8(*options.system_prompt, "the system message");
        talk.set_system(*options.system_prompt);
    }
    const auto generator = [&](const std::vector<int32_t> & tokens, const auto & on_text) {
        return generate_visibly(s, tokens, options.generation(), on_text);
    };
    generate_result result;
    std::string line = options.prompt.value_or("");
    require_utf8(line, "the message");
    bool is_typed = line.empty();
    while (!line.empty() || next_line(line)) {
        if (line.empty()) {
            continue;
        }
        if (first_invalid_utf8(line)) {
            std::cerr << "livekv-cli: a line is not valid UTF-8 and is skipped\n";
            line.clear();
            continue;
        }
        clear_interrupt();
        chat_turn turn;
        try {
            turn = talk.ask(line, generator);
        } catch (const context_error & problem) {  // a shorter one may still fit
            if (!is_typed) {
                throw;
            }
            std::cerr << "livekv-cli: " << problem.what() << "; the line is skipped\n";
            line.clear();
            continue;
        }
        line.clear();
        is_typed = true;
        std::cout << std::endl;
        explain(s, turn);
        result = turn.result;
        if (result.reason == stop_reason::context_full) {
            break;
        }
    }
    return result;
}

}  // namespace livekv
