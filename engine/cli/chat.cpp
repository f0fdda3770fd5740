#include "cli/chat.h"

#include <unistd.h>

#include <iostream>

#include "cli/generate_visibly.h"
#include "cli/interrupt.h"
#include "cli/tool.h"
#include "session/chat_template.h"

namespace livekv {

namespace {

// The conversation as text and what of it the cache holds. A turn's new text is what the template puts after that;
// a template that rewrites earlier turns makes the cache start over.
class transcript {
  public:
    transcript(session & s, chat_family family) : session_(s), family_(family) {}

    void add(const std::string & role, const std::string & content) { messages_.push_back({role, content}); }

    // Tokens to prefill so that the model speaks next.
    std::vector<int32_t> tokens_for_answer() {
        const tokenizer & vocab = session_.get_model().vocab;
        const std::string full = format_chat(family_, messages_, /*add_generation_prompt=*/true);
        std::vector<int32_t> tokens;
        if (full.compare(0, cached_.size(), cached_) != 0) {
            session_.reset();
            cached_.clear();
            pending_ = -1;
        }
        if (pending_ >= 0) {
            tokens.push_back(pending_);
        }
        const bool first = session_.n_tokens() == 0;
        const std::vector<int32_t> added = vocab.encode(full.substr(cached_.size()), first, /*parse_special=*/true);
        tokens.insert(tokens.end(), added.begin(), added.end());
        cached_ = full;
        return tokens;
    }

    void add_answer(const std::string & text, const generate_result & result) {
        add("assistant", text);
        cached_ += text;
        // A token cut off by -n is part of the answer but not yet in the cache.
        pending_ = result.reason == stop_reason::end_of_text ? -1 : result.last_token;
    }

  private:
    session & session_;
    chat_family family_;
    std::vector<chat_message> messages_;
    std::string cached_;  // the text in the cache, pending_ included
    int32_t pending_ = -1;
};

bool next_line(std::string & line) {
    if (::isatty(STDIN_FILENO)) {
        std::cerr << "\n> " << std::flush;
    }
    return static_cast<bool>(std::getline(std::cin, line));
}

}  // namespace

generate_result chat(session & s, const cli_options & options) {
    const tokenizer & vocab = s.get_model().vocab;
    transcript talk(s, detect_chat_family(vocab.chat_template(), vocab));
    if (options.system_prompt) {
        talk.add("system", *options.system_prompt);
    }
    generate_result result;
    std::string line = options.prompt.value_or("");
    while (!line.empty() || next_line(line)) {
        if (line.empty()) {
            continue;
        }
        require_utf8(line, "the message");
        talk.add("user", line);
        line.clear();
        const std::vector<int32_t> tokens = talk.tokens_for_answer();
        std::string answer;
        clear_interrupt();
        result = generate_visibly(s, tokens, options.generation(), [&](std::string_view piece) { answer += piece; });
        std::cout << std::endl;
        talk.add_answer(answer, result);
        if (result.reason == stop_reason::context_full) {
            std::cerr << "livekv-cli: the context of " << s.n_ctx() << " tokens is full\n";
            break;
        }
    }
    return result;
}

}  // namespace livekv
