#include "session/chat_family.h"

#include <string_view>

#include "error.h"
#include "model/tokenizer.h"

namespace livekv {

namespace {

constexpr chat_family families[] = {chat_family::llama2, chat_family::llama3, chat_family::chatml, chat_family::mistral,
                                    chat_family::zephyr};

// What llama2 and mistral share: the system message is the beginning of the first user message, roles alternate.
#define LIVEKV_ALTERNATING_TURNS(family)                                                                             \
    "{% if messages[0]['role'] == 'system' %}"                                                                       \
    "{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}"                                        \
    "{% else %}{% set system = none %}{% set turns = messages %}{% endif %}"                                         \
    "{% if not turns %}{{ raise_exception('the conversation has no user message') }}{% endif %}"                     \
    "{% for m in turns %}"                                                                                           \
    "{% set expected = 'user' if loop.index0 % 2 == 0 else 'assistant' %}"                                           \
    "{% if m['role'] != expected %}"                                                                                 \
    "{{ raise_exception('message ' + (loop.index + (0 if system is none else 1))|string + ' of the conversation is " \
    "from \\'' + m['role'] + '\\', but in " family                                                                   \
    " chats the next message is the ' + expected + '\\'s') }}"                                                       \
    "{% endif %}"

constexpr const char * llama2 = LIVEKV_ALTERNATING_TURNS("llama2")
    "{% if loop.first and system is not none %}"
    "{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + m['content'] %}"
    "{% else %}{% set content = m['content'] %}{% endif %}"
    "{% if m['role'] == 'user' %}"
    "{{ ('' if loop.first else bos_token) + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}";

// The published templates write a space before [INST]; encode puts it there by itself.
constexpr const char * mistral = LIVEKV_ALTERNATING_TURNS("mistral")
    "{% if m['role'] == 'user' %}"
    "{% if loop.first and system is not none %}{{ '[INST] ' + system + '\\n\\n' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endif %}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}";

#undef LIVEKV_ALTERNATING_TURNS

constexpr const char * llama3 =
    "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + "
    "'<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}";

constexpr const char * chatml =
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

constexpr const char * zephyr =
    "{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '<|user|>\\n' }}{% elif m['role'] == 'system' %}{{ '<|system|>\\n' }}"
    "{% else %}{{ '<|assistant|>\\n' }}{% endif %}{{ m['content'] + eos_token + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}";

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

std::vector<std::string> chat_family_names() {
    std::vector<std::string> names;
    for (const chat_family family : families) {
        names.push_back(chat_family_name(family));
    }
    return names;
}

chat_family chat_family_named(const std::string & name) {
    for (const chat_family family : families) {
        if (name == chat_family_name(family)) {
            return family;
        }
    }
    fail("there is no chat template family '", name, "'");
}

const char * chat_family_template(chat_family family) {
    switch (family) {
        case chat_family::llama2:
            return llama2;
        case chat_family::llama3:
            return llama3;
        case chat_family::chatml:
            return chatml;
        case chat_family::mistral:
            return mistral;
        case chat_family::zephyr:
            return zephyr;
        case chat_family::none:
            break;
    }
    return "";
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

}  // namespace livekv
