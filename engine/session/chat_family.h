#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace livekv {

class tokenizer;

// The chat formats that are built in, for files that bring no template of their own.
//   llama2             Llama-2-chat and Code Llama
//   llama3             Llama 3 instruct
//   chatml             Qwen, SmolLM2, Yi, ...
//   gemma              Gemma 1 to 3
//   phi3               Phi-3
//   mistral            Mistral-7B-Instruct v0.1 and v0.2, Mixtral
//   mistral-v3         Mistral-7B-Instruct v0.3 and others with a SentencePiece vocabulary
//   mistral-v3-tekken  Mistral Nemo
//   mistral-v7         Mistral Large 2411
//   mistral-v7-tekken  Mistral Small 3
//   zephyr             Zephyr, TinyLlama
enum class chat_family {
    none,
    llama2,
    llama3,
    chatml,
    gemma,
    phi3,
    mistral,
    mistral_v3,
    mistral_v3_tekken,
    mistral_v7,
    mistral_v7_tekken,
    zephyr
};

const char * chat_family_name(chat_family family);

// The names that chat_family_named knows: all but none's.
std::vector<std::string> chat_family_names();

// Throws livekv::error for an unknown name.
chat_family chat_family_named(const std::string & name);

// The family's format as a Jinja template, without <bos>; "" for none.
const char * chat_family_template(chat_family family);

// The family's marks that are to be control tokens, and are no tokens of this vocabulary: its chats would spell them
// out as text.
std::vector<std::string> missing_marks(chat_family family, const tokenizer & tok);

// User-defined tokens of this vocabulary that a chat of the family takes for control tokens: what its models' turns and
// texts begin and end with. A message that says one is text.
std::vector<int32_t> user_defined_marks(chat_family family, const tokenizer & tok);

// template_text: tokenizer.chat_template, where known formats leave telling marks; when it is empty, the control tokens
// of the vocabulary decide.
chat_family detect_chat_family(const std::string & template_text, const tokenizer & tok);

}  // namespace livekv
