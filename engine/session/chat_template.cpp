#include "session/chat_template.h"

#include <optional>
#include <string_view>

#include "error.h"
#include "model/tokenizer.h"

namespace livekv {

namespace {

std::string stripped(const std::string & text) {
    constexpr const char * spaces = " \t\n\v\f\r";
    const size_t begin = text.find_first_not_of(spaces);
    return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(spaces) + 1 - begin);
}

void check_roles(const std::vector<chat_message> & messages) {
    if (messages.empty()) {
        fail("the conversation has no messages");
    }
    for (const chat_message & message : messages) {
        if (message.role != "system" && message.role != "user" && message.role != "assistant") {
            fail("the role '", message.role, "' is not supported, supported are system, user and assistant");
        }
    }
}

// Splits off the system message of families that know it only in front, and checks that the others alternate.
std::optional<std::string> take_system(chat_family family, std::vector<chat_message> & messages) {
    std::optional<std::string> system;
    if (messages.front().role == "system") {
        system = messages.front().content;
        messages.erase(messages.begin());
    }
    for (size_t i = 0; i < messages.size(); ++i) {
        const char * expected = i % 2 == 0 ? "user" : "assistant";
        if (messages[i].role != expected) {
            fail("message ", i + 1 + (system ? 1 : 0), " of the conversation is from '", messages[i].role, "', but in ",
                 chat_family_name(family), " chats a ", expected, "'s message comes there");
        }
    }
    if (messages.empty()) {
        fail("the conversation has no user message");
    }
    return system;
}

std::string format_llama2(std::vector<chat_message> messages) {
    if (const auto system = take_system(chat_family::llama2, messages)) {
        messages[0].content = "<<SYS>>\n" + *system + "\n<</SYS>>\n\n" + messages[0].content;
    }
    std::string text;
    for (size_t i = 0; i < messages.size(); ++i) {
        const std::string content = stripped(messages[i].content);
        if (i % 2 == 0) {
            text += (i ? "<s>[INST] " : "[INST] ") + content + " [/INST]";
        } else {
            text += " " + content + " </s>";
        }
    }
    return text;
}

std::string format_mistral(std::vector<chat_message> messages) {
    if (const auto system = take_system(chat_family::mistral, messages)) {
        messages[0].content = *system + "\n\n" + messages[0].content;
    }
    std::string text;
    for (size_t i = 0; i < messages.size(); ++i) {
        const std::string & content = messages[i].content;
        text += i % 2 == 0 ? "[INST] " + content + " [/INST]" : " " + content + "</s>";
    }
    return text;
}

std::string format_llama3(const std::vector<chat_message> & messages, bool add_generation_prompt) {
    std::string text;
    for (const chat_message & message : messages) {
        text += "<|start_header_id|>" + message.role + "<|end_header_id|>\n\n";
        text += stripped(message.content) + "<|eot_id|>";
    }
    return text + (add_generation_prompt ? "<|start_header_id|>assistant<|end_header_id|>\n\n" : "");
}

std::string format_chatml(const std::vector<chat_message> & messages, bool add_generation_prompt) {
    std::string text;
    for (const chat_message & message : messages) {
        text += "<|im_start|>" + message.role + "\n" + message.content + "<|im_end|>\n";
    }
    return text + (add_generation_prompt ? "<|im_start|>assistant\n" : "");
}

std::string format_zephyr(const std::vector<chat_message> & messages, bool add_generation_prompt) {
    std::string text;
    for (const chat_message & message : messages) {
        text += "<|" + message.role + "|>\n" + message.content + "</s>\n";
    }
    return text + (add_generation_prompt ? "<|assistant|>\n" : "");
}

}  // namespace

const char * chat_family_name(chat_family family) {
    switch (family) {
        case chat_family::llama2:
            return "llama2";
        case chat_family::llama3:
            return "llama3";
        case chat_family::chatml:
            return "chatml";
        case chat_family::mistral:
            return "mistral";
        case chat_family::zephyr:
            return "zephyr";
        case chat_family::none:
            break;
    }
    return "none";
}

chat_family detect_chat_family(const std::string & template_text, const tokenizer & tok) {
    if (template_text.empty()) {
        const auto has_control = [&](std::string_view text) {
            const int32_t id = tok.find(text);
            return id >= 0 && tok.is_control(id);
        };
        if (has_control("<|im_start|>") && has_control("<|im_end|>")) {
            return chat_family::chatml;
        }
        const bool has_llama3 = has_control("<|start_header_id|>") && has_control("<|eot_id|>");
        return has_llama3 ? chat_family::llama3 : chat_family::none;
    }
    const auto has = [&](const char * mark) { return template_text.find(mark) != std::string::npos; };
    if (has("<|im_start|>")) {
        return has("<|im_sep|>") ? chat_family::none : chat_family::chatml;  // <|im_sep|>: Phi-4, another format
    }
    if (has("<|start_header_id|>")) {
        return chat_family::llama3;
    }
    if (has("[INST]")) {
        // [SYSTEM_PROMPT] and [AVAILABLE_TOOLS]: Mistral v3 and later, which space the marks differently.
        const bool is_later_mistral = has("[SYSTEM_PROMPT]") || has("[AVAILABLE_TOOLS]");
        return is_later_mistral ? chat_family::none : has("<<SYS>>") ? chat_family::llama2 : chat_family::mistral;
    }
    // <|end|> and <|endoftext|> instead of </s>: Phi-3 and StableLM.
    const bool has_roles = has("<|user|>") && has("<|assistant|>");
    return has_roles && !has("<|end|>") && !has("<|endoftext|>") ? chat_family::zephyr : chat_family::none;
}

std::string format_chat(chat_family family, const std::vector<chat_message> & messages, bool add_generation_prompt) {
    check_roles(messages);
    switch (family) {
        case chat_family::llama2:
            return format_llama2(messages);
        case chat_family::llama3:
            return format_llama3(messages, add_generation_prompt);
        case chat_family::chatml:
            return format_chatml(messages, add_generation_prompt);
        case chat_family::mistral:
            return format_mistral(messages);
        case chat_family::zephyr:
            return format_zephyr(messages, add_generation_prompt);
        case chat_family::none:
            break;
    }
    fail("the model has no chat template of a family livekv knows (llama2, llama3, chatml, mistral, zephyr); "
         "give it a plain prompt");
}

}  // namespace livekv
