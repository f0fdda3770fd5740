#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "session/chat_family.h"

namespace livekv {

class disguise;
class template_input;
class tokenizer;
struct template_allowance;

struct chat_message {
    std::string role;  // system, user, assistant, tool, ...
    std::string content;
    // What else a template may read of it, a JSON object; empty: nothing. A content that it has takes the other's place
    // (null: there is none; or a list of parts), and keys come in its order, with a role and a content that it lacks in
    // front.
    std::string more = {};
};

// Text as a template wrote it, in order; neighbours are of different origin.
struct chat_piece {
    std::string text;
    bool from_message;  // from what is given: no control tokens are recognized in it
};
using chat_text = std::vector<chat_piece>;

std::string str(const chat_text & text);

// What lies behind the first n bytes.
chat_text behind(const chat_text & text, size_t n);

// Whether the file's own template can be run for a conversation: there is one, and it reads messages. for_tools: for
// one with tools, for which some files have a template of their own.
bool has_own_chat_template(const tokenizer & tok, bool for_tools = false);

// Why the family's template is run though the file has one; "" where the file has none, or its own is run.
std::string passed_over_template(const tokenizer & tok, bool for_tools = false);

// Whether a model of this vocabulary can chat: by a template in its file or by a family that is recognized.
bool has_chat_template(const tokenizer & tok);

// How a model's conversations are written as text: the Jinja program in its file (tokenizer.chat_template), with the
// variables and functions that transformers gives it (messages, add_generation_prompt, bos_token, eos_token, tools and
// documents, none where they are not given; raise_exception, strftime_now). A file without one, or with a text that
// reads no messages, gets the template of the family it is recognized as: passed_over_template() says so. Const and
// shareable between threads.
class chat_template {
  public:
    // tok must outlive this object. Throws livekv::error when the template cannot be read, and where there is none.
    // for_tools: for conversations with tools, for which some files have a template of their own.
    explicit chat_template(const tokenizer & tok, bool for_tools = false);
    chat_template(const tokenizer & tok, chat_family family);          // that family's, whatever the file has
    chat_template(const tokenizer & tok, const std::string & source);  // this Jinja program
    ~chat_template();
    chat_template(chat_template && other) noexcept;

    // The conversation as text. add_generation_prompt: with what comes before the assistant's next answer, where the
    // template has such a thing. variables: what else it may read, a JSON object ("tools", "documents", ...); empty:
    // nothing. A content that is none reaches the template as none; as an empty text where it writes that out or cannot
    // go on with it. A list of {"type": "text", "text": ...} parts reaches it as that where it looks into it (loops
    // over it, takes parts of it, asks whether it is a text or a list); as the joined text otherwise. Throws
    // livekv::error for no messages, an uncommon role whose message it drops, variables that are no such object, what
    // the template itself refuses, and where it would make a control token of what it is given to write.
    chat_text render(const std::vector<chat_message> & messages, bool add_generation_prompt,
                     const std::string & variables = {}) const;

    // Whether it says this name, as a variable, a key or a text: what it does not say is lost on it.
    bool says(const std::string & name) const;

    // The tokens of rendered text: one <bos> in front where the model asks for it, no <eos> behind. behind: the token
    // that the text goes on behind, and then no <bos>; -1: it begins a text.
    std::vector<int32_t> encode(const chat_text & text, int32_t behind = -1) const;

    // Rendered text less a <bos> that tokenizer::encode would add again.
    std::string without_bos(const chat_text & text) const;

  private:
    struct program;

    // own: the Jinja program, where it is none of the families.
    chat_template(const tokenizer & tok, chat_family family, const std::string & own);

    chat_text run(const template_input & input, disguise & as, bool add_generation_prompt,
                  template_allowance & allowance) const;
    chat_text run_with_texts(template_input & input, disguise & as, bool add_generation_prompt,
                             template_allowance & allowance) const;
    size_t bos_length(const chat_text & text) const;  // bytes of <bos> in front, where encode would add one too

    const tokenizer & tok_;
    std::unique_ptr<const program> program_;
};

}  // namespace livekv
