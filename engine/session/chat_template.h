#pragma once

#include <string>
#include <vector>

namespace livekv {

class tokenizer;

// How a chat model's conversations are written as text. Templates themselves are programs (Jinja) and are not run: the
// family is recognised and its format is built in.
//   llama2   Llama-2-chat and Code Llama
//   llama3   Llama 3 instruct; 3.1 and later without the date that their templates put into the system message
//   chatml   Qwen, SmolLM2, Yi, ...; without the system message that some of their templates add
//   mistral  Mistral-7B-Instruct v0.1 and v0.2, Mixtral: the space before [INST] is the one that encode puts there
//   zephyr   Zephyr, TinyLlama
enum class chat_family { none, llama2, llama3, chatml, mistral, zephyr };

const char * chat_family_name(chat_family family);

// template_text: tokenizer.chat_template, where known formats leave telling marks; when it is empty, the control tokens
// of the vocabulary decide.
chat_family detect_chat_family(const std::string & template_text, const tokenizer & tok);

struct chat_message {
    std::string role;  // system, user or assistant
    std::string content;
};

// The conversation as text, to be encoded with add_special and parse_special: <bos> is left to the former.
// add_generation_prompt: with what comes before the assistant's next answer, where the family has such a thing.
// Throws livekv::error for an unknown role, for roles that do not alternate where the family demands it, and for none.
std::string format_chat(chat_family family, const std::vector<chat_message> & messages, bool add_generation_prompt);

}  // namespace livekv
