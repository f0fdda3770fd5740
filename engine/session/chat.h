#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "session/chat_template.h"
#include "session/generate.h"
#include "session/session.h"

namespace livekv {

struct chat_turn {
    generate_result result;
    std::string answer;       // as it was generated
    int64_t n_read_anew = 0;  // tokens of former turns that this one read again, because the template rewrites them
    bool taken_back = false;  // interrupted before the first token: as if nothing had been said
};

// A conversation in a session. A turn reads what is new: the tokens that were generated stay in the cache as they are,
// and what the template writes between an answer's end and the next one's beginning is appended. Only where a template
// writes former turns otherwise than before, the cache is trimmed to the tokens that stayed the same.
class chat {
  public:
    // The session is empty, and left alone by others. Both must outlive this object.
    chat(session & s, const chat_template & format) : session_(s), format_(format) {}

    // Before the first turn.
    void set_system(const std::string & content) { messages_.push_back({"system", content}); }

    // As generate() does: prefills tokens, then generates, and hands out the text.
    using generator = std::function<generate_result(const std::vector<int32_t> & tokens,
                                                    const std::function<void(std::string_view)> & on_text)>;

    // One turn. An answer cut off stays, and its turn's end is added by the next one. A turn interrupted before its
    // first token, and one that fails, is taken back: the cache holds what it held, the message is forgotten. Throws
    // livekv::error as the generator and chat_template::render do.
    chat_turn ask(const std::string & message, const generator & answer);

    const std::vector<chat_message> & messages() const { return messages_; }

  private:
    // What has to be read before the model answers the last message.
    struct plan {
        std::string prompt;  // all of the conversation
        std::vector<int32_t> tokens;
        bool from_the_beginning = false;  // behind the first n_kept tokens of the cache, not behind all of them
        int64_t n_kept = 0;
    };
    plan plan_turn();
    std::optional<chat_text> behind_answer(const chat_text & prompt) const;

    session & session_;
    const chat_template & format_;
    std::vector<chat_message> messages_;
    // The text before the last answer; none where the cache does not hold all of the conversation.
    std::optional<std::string> prompt_;
    int32_t pending_ = -1;  // the last token of an answer that was cut off, which no pass has seen yet
};

}  // namespace livekv
