#include "session/chat.h"

#include <algorithm>
#include <iterator>

namespace livekv {

namespace {

std::string_view stripped(std::string_view text) {
    constexpr std::string_view spaces = " \t\n\v\f\r";
    const size_t begin = text.find_first_not_of(spaces);
    return begin == std::string_view::npos ? "" : text.substr(begin, text.find_last_not_of(spaces) + 1 - begin);
}

// A text that is part of none of the messages.
std::string unique_mark(const std::vector<chat_message> & messages) {
    std::string mark =
        "\x02"
        "answer ends\x03";
    while (std::ranges::any_of(messages, [&](const auto & m) { return m.content.find(mark) != std::string::npos; })) {
        mark += '\x03';
    }
    return mark;
}

}  // namespace

// What the template writes behind the last answer, up to the next one; none when it does not write what came before as
// it did then, but for space around the answer, which many templates strip.
std::optional<chat_text> chat::behind_answer(const chat_text & prompt) const {
    std::vector<chat_message> marked = messages_;
    const std::string answer = marked[marked.size() - 2].content;
    const std::string mark = unique_mark(messages_);
    marked[marked.size() - 2].content += mark;
    const chat_text with_mark = format_.render(marked, /*add_generation_prompt=*/true);
    const std::string whole = str(with_mark);
    const size_t at = whole.find(mark);
    if (at == std::string::npos || whole.find(mark, at + 1) != std::string::npos) {
        return std::nullopt;
    }
    const std::string text = str(prompt);
    const std::string_view tail = std::string_view(whole).substr(at + mark.size());
    if (!text.starts_with(*prompt_) || !text.ends_with(tail) || prompt_->size() + tail.size() > text.size()) {
        return std::nullopt;
    }
    const size_t n_answer = text.size() - tail.size() - prompt_->size();
    if (stripped(std::string_view(text).substr(prompt_->size(), n_answer)) != stripped(answer)) {
        return std::nullopt;
    }
    return behind(with_mark, at + mark.size());
}

chat::plan chat::plan_turn() {
    const chat_text text = format_.render(messages_, /*add_generation_prompt=*/true);
    plan p;
    p.prompt = str(text);
    if (prompt_) {
        if (const std::optional<chat_text> tail = behind_answer(text)) {
            const int32_t last = pending_ >= 0 ? pending_ : session_.tokens().back();
            p.tokens = format_.encode(*tail, last);
            if (pending_ >= 0) {
                p.tokens.insert(p.tokens.begin(), pending_);
            }
            return p;
        }
    }
    p.from_the_beginning = true;
    p.tokens = format_.encode(text);
    const std::span<const int32_t> held = session_.tokens();
    const auto same = std::ranges::mismatch(held, p.tokens).in1 - held.begin();
    // The last token is read in any case: its logits are what an answer begins with.
    p.n_kept = std::max<int64_t>(0, std::min<int64_t>(same, std::ssize(p.tokens) - 1));
    p.tokens.erase(p.tokens.begin(), p.tokens.begin() + p.n_kept);
    return p;
}

chat_turn chat::ask(const std::string & message, const generator & answer) {
    chat_turn turn;
    messages_.push_back({"user", message});
    int64_t n_before = session_.n_tokens();
    const int64_t n_forgotten = session_.n_forgotten();
    const auto take_back = [&] {  // what has left the context meanwhile stays away
        messages_.pop_back();
        session_.trim(n_before - (session_.n_forgotten() - n_forgotten));
    };
    try {
        plan p = plan_turn();
        if (p.from_the_beginning) {
            session_.trim(p.n_kept);
            prompt_.reset();
            pending_ = -1;
            turn.n_read_anew = n_before - p.n_kept;
            n_before = p.n_kept;
        }
        turn.result = answer(p.tokens, [&](std::string_view piece) { turn.answer += piece; });
        turn.taken_back = turn.result.reason == stop_reason::interrupted && turn.result.n_generated == 0;
        if (!turn.taken_back) {
            prompt_ = std::move(p.prompt);
        }
    } catch (...) {
        take_back();
        throw;
    }
    if (turn.taken_back) {
        take_back();
        return turn;
    }
    // The space that joins an answer to its prompt is the template's to write.
    messages_.push_back({"assistant", turn.answer.substr(turn.answer.starts_with(' ') ? 1 : 0)});
    const bool all_seen = turn.result.n_generated == 0 || turn.result.reason == stop_reason::end_of_text;
    pending_ = all_seen ? -1 : turn.result.last_token;
    return turn;
}

}  // namespace livekv
