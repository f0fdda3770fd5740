// Chat formats against what the Hugging Face templates of each family render (recorded with Jinja, without <bos>).

#include "../fixtures/small_vocab.h"
#include "check.h"
#include "error.h"
#include "model/gguf_file.h"
#include "model/tokenizer.h"
#include "session/chat_template.h"

using livekv::chat_family;
using livekv::chat_message;
using livekv::format_chat;

namespace {

const std::vector<chat_message> question = {{"user", " Who? \n"}};
const std::vector<chat_message> talk = {
    {"system", "Be brief."}, {"user", " Who? \n"}, {"assistant", " Me. "}, {"user", "Why?"}};

livekv::tokenizer load(const std::vector<fixtures::token> & tokens) {
    fixtures::memory_file file;
    fixtures::vocab_builder("llama", tokens).write(file);
    return livekv::tokenizer(livekv::gguf_file(file.path()));
}

std::string detected(const std::string & template_text, std::vector<fixtures::token> more = {}) {
    more.push_back({"a"});
    return livekv::chat_family_name(livekv::detect_chat_family(template_text, load(more)));
}

}  // namespace

TEST(llama2_conversations) {
    const std::string first = "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n Who? [/INST]";
    CHECK_EQ(format_chat(chat_family::llama2, talk, true), first + " Me. </s><s>[INST] Why? [/INST]");
    CHECK_EQ(format_chat(chat_family::llama2, question, false), "[INST] Who? [/INST]");
}

TEST(llama3_conversations) {
    const std::string asked = "<|start_header_id|>user<|end_header_id|>\n\nWho?<|eot_id|>";
    const std::string answer = "<|start_header_id|>assistant<|end_header_id|>\n\n";
    CHECK_EQ(format_chat(chat_family::llama3, question, true), asked + answer);
    CHECK_EQ(format_chat(chat_family::llama3, question, false), asked);
    CHECK_EQ(format_chat(chat_family::llama3, talk, true),
             "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>" + asked + answer + "Me.<|eot_id|>" +
                 "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>" + answer);
}

TEST(chatml_conversations) {
    CHECK_EQ(format_chat(chat_family::chatml, question, false), "<|im_start|>user\n Who? \n<|im_end|>\n");
    CHECK_EQ(format_chat(chat_family::chatml, talk, true),
             "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Who? \n<|im_end|>\n"
             "<|im_start|>assistant\n Me. <|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n");
}

// The templates write a space before [INST]; encode puts it there by itself.
TEST(mistral_conversations) {
    CHECK_EQ(format_chat(chat_family::mistral, talk, true),
             "[INST] Be brief.\n\n Who? \n [/INST]  Me. </s>[INST] Why? [/INST]");
    CHECK_EQ(format_chat(chat_family::mistral, question, true), "[INST]  Who? \n [/INST]");
}

TEST(zephyr_conversations) {
    CHECK_EQ(format_chat(chat_family::zephyr, question, false), "<|user|>\n Who? \n</s>\n");
    CHECK_EQ(format_chat(chat_family::zephyr, talk, true),
             "<|system|>\nBe brief.</s>\n<|user|>\n Who? \n</s>\n"
             "<|assistant|>\n Me. </s>\n<|user|>\nWhy?</s>\n<|assistant|>\n");
}

TEST(turns_out_of_order_are_errors) {
    const std::vector<chat_message> twice = {{"user", "a"}, {"user", "b"}};
    CHECK_ERROR(format_chat(chat_family::llama2, twice, true), "message 2 of the conversation is from 'user'");
    CHECK_ERROR(format_chat(chat_family::mistral, {{"system", "s"}, {"assistant", "a"}}, true), "message 2");
    CHECK_ERROR(format_chat(chat_family::mistral, {{"system", "s"}}, true), "no user message");
    CHECK_EQ(format_chat(chat_family::chatml, twice, false),
             "<|im_start|>user\na<|im_end|>\n<|im_start|>user\nb<|im_end|>\n");
    CHECK_ERROR(format_chat(chat_family::chatml, {{"tool", "a"}}, true), "the role 'tool' is not supported");
    CHECK_ERROR(format_chat(chat_family::chatml, {}, true), "no messages");
    CHECK_ERROR(format_chat(chat_family::none, question, true), "a plain prompt");
}

TEST(families_are_recognised_by_their_marks) {
    CHECK_EQ(detected("{{ '<|im_start|>' + role }}"), "chatml");
    CHECK_EQ(detected("{{ '<|im_start|>' + role + '<|im_sep|>' }}"), "none");
    CHECK_EQ(detected("{{ '<|start_header_id|>' + role }}"), "llama3");
    CHECK_EQ(detected("'[INST] ' '<<SYS>>'"), "llama2");
    CHECK_EQ(detected("' [INST] ' + content"), "mistral");
    CHECK_EQ(detected("'[INST] ' '[AVAILABLE_TOOLS]'"), "none");
    CHECK_EQ(detected("'<|user|>' '<|assistant|>' + eos_token"), "zephyr");
    CHECK_EQ(detected("'<|user|>' '<|assistant|>' '<|end|>'"), "none");
    CHECK_EQ(detected("### Instruction:"), "none");
}

TEST(without_a_template_the_control_tokens_decide) {
    CHECK_EQ(detected(""), "none");
    CHECK_EQ(detected("", {{"<|im_start|>", 3}, {"<|im_end|>", 3}}), "chatml");
    CHECK_EQ(detected("", {{"<|im_start|>", 1}, {"<|im_end|>", 1}}), "none");
    CHECK_EQ(detected("", {{"<|start_header_id|>", 3}, {"<|eot_id|>", 3}}), "llama3");
}

TEST_MAIN
