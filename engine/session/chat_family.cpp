#include "session/chat_family.h"

#include <algorithm>
#include <span>
#include <string_view>

#include "error.h"
#include "model/tokenizer.h"

namespace livekv {

namespace {

// What llama2, gemma and Mistral's share: the system message is part of a user message, roles alternate.
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

// From the third version on the marks are control tokens, and the system message is in the newest user message. Models
// with a SentencePiece vocabulary were trained with a space behind them, those with Tekken's without.
#define LIVEKV_MISTRAL_V3(family, space)                        \
    LIVEKV_ALTERNATING_TURNS(family)                            \
    "{% if m['role'] == 'user' %}"                              \
    "{% if loop.last and system is not none %}{{ '[INST]" space \
    "' + system + '\\n\\n' + m['content'] + '[/INST]' }}"       \
    "{% else %}{{ '[INST]" space                                \
    "' + m['content'] + '[/INST]' }}{% endif %}"                \
    "{% else %}{{ '" space "' + m['content'] + eos_token }}{% endif %}{% endfor %}"

constexpr const char * mistral_v3 = LIVEKV_MISTRAL_V3("mistral-v3", " ");
constexpr const char * mistral_v3_tekken = LIVEKV_MISTRAL_V3("mistral-v3-tekken", "");

#undef LIVEKV_MISTRAL_V3

// From the seventh on the system message has marks of its own.
#define LIVEKV_MISTRAL_V7(space)                              \
    "{% for m in messages %}"                                 \
    "{% if m['role'] == 'system' %}{{ '[SYSTEM_PROMPT]" space \
    "' + m['content'] + '[/SYSTEM_PROMPT]' }}"                \
    "{% elif m['role'] == 'user' %}{{ '[INST]" space          \
    "' + m['content'] + '[/INST]' }}"                         \
    "{% else %}{{ '" space "' + m['content'] + eos_token }}{% endif %}{% endfor %}"

constexpr const char * mistral_v7 = LIVEKV_MISTRAL_V7(" ");
constexpr const char * mistral_v7_tekken = LIVEKV_MISTRAL_V7("");

#undef LIVEKV_MISTRAL_V7

constexpr const char * gemma = LIVEKV_ALTERNATING_TURNS("gemma")
    "{{ '<start_of_turn>' + ('user' if m['role'] == 'user' else 'model') + '\n' }}"
    "{% if loop.first and system is not none %}{{ system + '\n\n' }}{% endif %}"
    "{{ m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}";

#undef LIVEKV_ALTERNATING_TURNS

constexpr const char * phi3 =
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}";

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

using marks = std::span<const std::string_view>;
constexpr marks no_marks;  // what the family writes is text
constexpr std::string_view llama3_marks[] = {"<|start_header_id|>", "<|eot_id|>"};
constexpr std::string_view chatml_marks[] = {"<|im_start|>", "<|im_end|>"};
constexpr std::string_view gemma_marks[] = {"<start_of_turn>", "<end_of_turn>"};
constexpr std::string_view phi3_marks[] = {"<|user|>", "<|assistant|>", "<|end|>"};
constexpr std::string_view mistral_v3_marks[] = {"[INST]", "[/INST]"};
constexpr std::string_view mistral_v7_marks[] = {"[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"};

// All that the family's models may know as tokens.
constexpr std::string_view all_llama2_marks[] = {"[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"};
constexpr std::string_view all_llama3_marks[] = {"<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>",
                                                 "<|end_header_id|>", "<|eot_id|>",      "<|eom_id|>",
                                                 "<|python_tag|>"};
constexpr std::string_view all_chatml_marks[] = {"<|im_start|>", "<|im_end|>", "<|endoftext|>"};
constexpr std::string_view all_gemma_marks[] = {"<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"};
constexpr std::string_view all_phi3_marks[] = {"<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"};
constexpr std::string_view all_mistral_marks[] = {"[INST]",           "[/INST]",           "[SYSTEM_PROMPT]",
                                                  "[/SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
                                                  "[TOOL_CALLS]",     "[TOOL_RESULTS]",    "[/TOOL_RESULTS]"};
constexpr std::string_view all_zephyr_marks[] = {"<|system|>", "<|user|>", "<|assistant|>", "<|endoftext|>"};

constexpr struct {
    chat_family family;
    const char * name;
    const char * source;
    marks control;  // that are to be tokens
    marks all;
} families[] = {
    {chat_family::llama2, "llama2", llama2, no_marks, all_llama2_marks},
    {chat_family::llama3, "llama3", llama3, llama3_marks, all_llama3_marks},
    {chat_family::chatml, "chatml", chatml, chatml_marks, all_chatml_marks},
    {chat_family::gemma, "gemma", gemma, gemma_marks, all_gemma_marks},
    {chat_family::phi3, "phi3", phi3, phi3_marks, all_phi3_marks},
    {chat_family::mistral, "mistral", mistral, no_marks, all_mistral_marks},
    {chat_family::mistral_v3, "mistral-v3", mistral_v3, mistral_v3_marks, all_mistral_marks},
    {chat_family::mistral_v3_tekken, "mistral-v3-tekken", mistral_v3_tekken, mistral_v3_marks, all_mistral_marks},
    {chat_family::mistral_v7, "mistral-v7", mistral_v7, mistral_v7_marks, all_mistral_marks},
    {chat_family::mistral_v7_tekken, "mistral-v7-tekken", mistral_v7_tekken, mistral_v7_marks, all_mistral_marks},
    {chat_family::zephyr, "zephyr", zephyr, no_marks, all_zephyr_marks},
};

// A text of a template, in which known formats leave telling marks.
chat_family family_of_template(std::string_view text) {
    const auto has = [&](std::string_view mark) { return text.find(mark) != std::string_view::npos; };
    if (has("<|im_start|>")) {
        return has("<|im_sep|>") ? chat_family::none : chat_family::chatml;  // <|im_sep|>: Phi-4, another format
    }
    if (has("<|start_header_id|>")) {
        return chat_family::llama3;
    }
    if (has("<start_of_turn>")) {
        return chat_family::gemma;
    }
    if (has("[INST]")) {
        const bool spaced = has("[INST] ");
        if (has("[SYSTEM_PROMPT]")) {
            return spaced ? chat_family::mistral_v7 : chat_family::mistral_v7_tekken;
        }
        if (has("[AVAILABLE_TOOLS]")) {
            return spaced ? chat_family::mistral_v3 : chat_family::mistral_v3_tekken;
        }
        return has("<<SYS>>") ? chat_family::llama2 : chat_family::mistral;
    }
    if (!has("<|user|>") || !has("<|assistant|>") || has("<|endoftext|>")) {  // <|endoftext|>: StableLM
        return chat_family::none;
    }
    return has("<|end|>") ? chat_family::phi3 : chat_family::zephyr;
}

// Without a template the control tokens of the vocabulary decide.
chat_family family_of_vocabulary(const tokenizer & tok) {
    const auto has_all = [&](marks texts) {
        return std::ranges::all_of(texts, [&](std::string_view text) {
            const int32_t id = tok.find(text);
            return id >= 0 && tok.is_control(id);
        });
    };
    if (has_all(chatml_marks)) {
        return chat_family::chatml;
    }
    if (has_all(llama3_marks)) {
        return chat_family::llama3;
    }
    if (has_all(gemma_marks)) {
        return chat_family::gemma;
    }
    if (has_all(phi3_marks)) {
        return chat_family::phi3;
    }
    if (!has_all(mistral_v3_marks)) {
        return chat_family::none;
    }
    const bool is_spm = tok.find("\u2581") >= 0;
    if (has_all(mistral_v7_marks)) {
        return is_spm ? chat_family::mistral_v7 : chat_family::mistral_v7_tekken;
    }
    return is_spm ? chat_family::mistral_v3 : chat_family::mistral_v3_tekken;
}

}  // namespace

const char * chat_family_name(chat_family family) {
    for (const auto & known : families) {
        if (known.family == family) {
            return known.name;
        }
    }
    return "none";
}

std::vector<std::string> chat_family_names() {
    std::vector<std::string> names;
    for (const auto & known : families) {
        names.push_back(known.name);
    }
    return names;
}

chat_family chat_family_named(const std::string & name) {
    for (const auto & known : families) {
        if (name == known.name) {
            return known.family;
        }
    }
    fail("there is no chat template family '", name, "'");
}

const char * chat_family_template(chat_family family) {
    for (const auto & known : families) {
        if (known.family == family) {
            return known.source;
        }
    }
    return "";
}

std::vector<std::string> missing_marks(chat_family family, const tokenizer & tok) {
    std::vector<std::string> missing;
    for (const auto & known : families) {
        for (const std::string_view mark : known.family == family ? known.control : no_marks) {
            if (tok.find(mark) < 0) {
                missing.emplace_back(mark);
            }
        }
    }
    return missing;
}

std::vector<int32_t> user_defined_marks(chat_family family, const tokenizer & tok) {
    std::vector<int32_t> ids;
    for (const auto & known : families) {
        for (const std::string_view mark : known.family == family ? known.all : no_marks) {
            if (const int32_t id = tok.find(mark); id >= 0 && tok.is_user_defined(id)) {
                ids.push_back(id);
            }
        }
    }
    return ids;
}

chat_family detect_chat_family(const std::string & template_text, const tokenizer & tok) {
    return template_text.empty() ? family_of_vocabulary(tok) : family_of_template(template_text);
}

}  // namespace livekv
