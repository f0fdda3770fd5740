// Chat templates: the built-in ones against what the Hugging Face templates of each family render (recorded with Jinja,
// without <bos>), and what becomes of a file's own. tests/python/test_chat_template.py compares with jinja2 itself.

#include <algorithm>

#include "../fixtures/small_vocab.h"
#include "check.h"
#include "error.h"
#include "model/gguf_file.h"
#include "model/tokenizer.h"
#include "session/chat_template.h"

using livekv::chat_family;
using livekv::chat_message;
using livekv::chat_template;

namespace {

const std::vector<chat_message> question = {{"user", " Who? \n"}};
const std::vector<chat_message> talk = {
    {"system", "Be brief."}, {"user", " Who? \n"}, {"assistant", " Me. "}, {"user", "Why?"}};

livekv::tokenizer load(const std::vector<fixtures::token> & tokens) {
    fixtures::memory_file file;
    fixtures::vocab_builder("llama", tokens).write(file);
    return livekv::tokenizer(livekv::gguf_file(file.path()));
}

// A vocabulary of spm_tokens whose file has this template.
livekv::tokenizer with_template(const std::string & source) {
    fixtures::memory_file file;
    fixtures::vocab_builder builder("llama", fixtures::spm_tokens());
    gguf_set_val_str(builder.gguf, "tokenizer.chat_template", source.c_str());
    gguf_set_val_u32(builder.gguf, "tokenizer.ggml.bos_token_id", 1);
    gguf_set_val_u32(builder.gguf, "tokenizer.ggml.eos_token_id", 2);
    builder.write(file);
    return livekv::tokenizer(livekv::gguf_file(file.path()));
}

std::string format_chat(chat_family family, const std::vector<chat_message> & messages, bool add_generation_prompt) {
    const livekv::tokenizer tok = with_template("");
    return str(chat_template(tok, family).render(messages, add_generation_prompt));
}

std::vector<std::string> spelled(const livekv::tokenizer & tok, const std::vector<int32_t> & ids) {
    std::vector<std::string> texts;
    for (const int32_t id : ids) {
        texts.push_back(tok.token_bytes(id, true));
    }
    return texts;
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

TEST(later_mistral_conversations) {
    // The system message stands in the newest user message.
    CHECK_EQ(format_chat(chat_family::mistral_v3, talk, true),
             "[INST]  Who? \n[/INST]  Me. </s>[INST] Be brief.\n\nWhy?[/INST]");
    CHECK_EQ(format_chat(chat_family::mistral_v3_tekken, talk, true),
             "[INST] Who? \n[/INST] Me. </s>[INST]Be brief.\n\nWhy?[/INST]");
    CHECK_EQ(format_chat(chat_family::mistral_v3, question, true), "[INST]  Who? \n[/INST]");
    CHECK_EQ(format_chat(chat_family::mistral_v7, talk, true),
             "[SYSTEM_PROMPT] Be brief.[/SYSTEM_PROMPT][INST]  Who? \n[/INST]  Me. </s>[INST] Why?[/INST]");
    CHECK_EQ(format_chat(chat_family::mistral_v7_tekken, talk, true),
             "[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT][INST] Who? \n[/INST] Me. </s>[INST]Why?[/INST]");
}

TEST(gemma_conversations) {
    CHECK_EQ(format_chat(chat_family::gemma, question, false), "<start_of_turn>user\nWho?<end_of_turn>\n");
    CHECK_EQ(format_chat(chat_family::gemma, talk, true),
             "<start_of_turn>user\nBe brief.\n\nWho?<end_of_turn>\n<start_of_turn>model\nMe.<end_of_turn>\n"
             "<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n");
}

TEST(phi3_conversations) {
    CHECK_EQ(format_chat(chat_family::phi3, question, false), "<|user|>\n Who? \n<|end|>\n");
    CHECK_EQ(format_chat(chat_family::phi3, talk, true),
             "<|system|>\nBe brief.<|end|>\n<|user|>\n Who? \n<|end|>\n"
             "<|assistant|>\n Me. <|end|>\n<|user|>\nWhy?<|end|>\n<|assistant|>\n");
}

TEST(every_family_has_a_name_and_a_template) {
    for (const std::string & name : livekv::chat_family_names()) {
        const chat_family family = livekv::chat_family_named(name);
        CHECK_EQ(livekv::chat_family_name(family), name);
        CHECK(format_chat(family, question, true).find("Who?") != std::string::npos);
    }
    CHECK_ERROR(livekv::chat_family_named("none"), "no chat template family 'none'");
}

TEST(turns_out_of_order_are_errors) {
    const std::vector<chat_message> twice = {{"user", "a"}, {"user", "b"}};
    CHECK_ERROR(format_chat(chat_family::llama2, twice, true), "message 2 of the conversation is from 'user'");
    CHECK_ERROR(format_chat(chat_family::mistral, {{"system", "s"}, {"assistant", "a"}}, true), "message 2");
    CHECK_ERROR(format_chat(chat_family::mistral, {{"system", "s"}}, true), "no user message");
    CHECK_EQ(format_chat(chat_family::chatml, twice, false),
             "<|im_start|>user\na<|im_end|>\n<|im_start|>user\nb<|im_end|>\n");
    CHECK_EQ(format_chat(chat_family::chatml, {{"wizard", "a"}}, false), "<|im_start|>wizard\na<|im_end|>\n");
    CHECK_ERROR(format_chat(chat_family::chatml, {}, true), "no messages");
    CHECK_ERROR(chat_template(load({{"a"}})), "a plain prompt");
}

TEST(families_are_recognised_by_their_marks) {
    CHECK_EQ(detected("{{ '<|im_start|>' + role }}"), "chatml");
    CHECK_EQ(detected("{{ '<|im_start|>' + role + '<|im_sep|>' }}"), "none");
    CHECK_EQ(detected("{{ '<|start_header_id|>' + role }}"), "llama3");
    CHECK_EQ(detected("'[INST] ' '<<SYS>>'"), "llama2");
    CHECK_EQ(detected("' [INST] ' + content"), "mistral");
    CHECK_EQ(detected("'[INST] ' '[AVAILABLE_TOOLS] '"), "mistral-v3");
    CHECK_EQ(detected("'[INST]' '[AVAILABLE_TOOLS]'"), "mistral-v3-tekken");
    CHECK_EQ(detected("'[INST] ' '[SYSTEM_PROMPT] '"), "mistral-v7");
    CHECK_EQ(detected("'[INST]' '[SYSTEM_PROMPT]' '[AVAILABLE_TOOLS]'"), "mistral-v7-tekken");
    CHECK_EQ(detected("{{ '<start_of_turn>' + role }}"), "gemma");
    CHECK_EQ(detected("'<|user|>' '<|assistant|>' + eos_token"), "zephyr");
    CHECK_EQ(detected("'<|user|>' '<|assistant|>' '<|end|>'"), "phi3");
    CHECK_EQ(detected("'<|user|>' '<|assistant|>' '<|endoftext|>'"), "none");
    CHECK_EQ(detected("### Instruction:"), "none");
}

TEST(without_a_template_the_control_tokens_decide) {
    CHECK_EQ(detected(""), "none");
    CHECK_EQ(detected("", {{"<|im_start|>", 3}, {"<|im_end|>", 3}}), "chatml");
    CHECK_EQ(detected("", {{"<|im_start|>", 1}, {"<|im_end|>", 1}}), "none");
    CHECK_EQ(detected("", {{"<|start_header_id|>", 3}, {"<|eot_id|>", 3}}), "llama3");
    CHECK_EQ(detected("", {{"<start_of_turn>", 3}, {"<end_of_turn>", 3}}), "gemma");
    CHECK_EQ(detected("", {{"<|user|>", 3}, {"<|assistant|>", 3}, {"<|end|>", 3}}), "phi3");
    CHECK_EQ(detected("", {{"<|user|>", 3}, {"<|assistant|>", 3}}), "none");
    CHECK_EQ(detected("", {{"[INST]", 3}, {"[/INST]", 3}}), "mistral-v3-tekken");
    CHECK_EQ(detected("", {{"[INST]", 3}, {"[/INST]", 3}, {"▁", 1}}), "mistral-v3");
    const std::vector<fixtures::token> v7 = {
        {"[INST]", 3}, {"[/INST]", 3}, {"[SYSTEM_PROMPT]", 3}, {"[/SYSTEM_PROMPT]", 3}};
    CHECK_EQ(detected("", v7), "mistral-v7-tekken");
}

TEST(a_files_own_template_is_run) {
    const livekv::tokenizer tok = with_template(
        "{{ bos_token }}{% for m in messages %}\n    {% if loop.first %}\n<{{ m.role }}>{% endif %}{{ m.content }}"
        "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}:{% endif %}");
    const chat_template format(tok);
    CHECK_EQ(str(format.render(question, true)), "<s><user> Who? \n</s>:");
    CHECK_EQ(str(format.render(question, false)), "<s><user> Who? \n</s>");
    CHECK_EQ(format.without_bos(format.render(question, false)), "<user> Who? \n</s>");
    const std::vector<int32_t> ids = format.encode(format.render({{"user", "a"}}, true));
    CHECK_EQ(ids.front(), 1);
    CHECK_EQ(std::count(ids.begin(), ids.end(), 1), 1);
    CHECK_EQ(std::count(ids.begin(), ids.end(), 2), 1);
}

// A float of the engine has an integer beside it, which these have none of.
TEST(numbers_beyond_64_bits_are_floats) {
    const livekv::tokenizer tok = with_template("{{ messages[0].n }} {{ messages[0].m + 1 }} {{ messages[0].k }}");
    livekv::chat_message message{"user", "a"};
    message.more = R"({"n": 36893488147419103232, "m": -36893488147419103232, "k": 0.5})";
    CHECK_EQ(str(chat_template(tok).render({message}, true)), "3.6893488147419103e+19 -3.6893488147419103e+19 0.5");
}

// As transformers hands it over, unless the template writes it out (None there) or cannot go on with it.
TEST(a_content_that_is_none_is_none_to_a_template_that_does_not_need_text) {
    const std::vector<chat_message> messages = {{"user", "hi"},
                                                {"assistant", "", R"({"content": null, "calls": ["f"]})"},
                                                {"user", "", R"({"content": null})"}};
    const auto text_of = [&](const std::string & write) {
        return str(
            chat_template(with_template("{% for m in messages %}" + write + "{% endfor %}")).render(messages, true));
    };
    CHECK_EQ(text_of("{{ m.content is none }},"), "False,True,True,");
    CHECK_EQ(text_of("{{ m.content == none }},{{ m.content or '-' }},"), "False,hi,True,-,True,-,");
    CHECK_EQ(text_of("{{ [m.content] | tojson }}"), "[\"hi\"][null][null]");
    CHECK_EQ(text_of("[{{ m.content }}]"), "[hi][][]");
    CHECK_EQ(text_of("[{{ m.content | trim }}]{{ m.content is none }}"), "[hi]False[]False[]False");
    CHECK_EQ(text_of("[{{ '' + m.content }}]"), "[hi][][]");
    CHECK_EQ(text_of("{% if m.calls %}{{ m.content is none }}{% else %}[{{ m.content }}]{% endif %}"), "[hi]True[]");
    CHECK_ERROR(text_of("{% if m.content is none %}{{ raise_exception('no text') }}{% endif %}"),
                "the model's chat template: no text");
    for (const chat_family family : {chat_family::chatml, chat_family::llama3, chat_family::zephyr}) {
        CHECK_EQ(format_chat(family, messages, true),
                 format_chat(family, {{"user", "hi"}, {"assistant", ""}, {"user", ""}}, true));
    }
}

TEST(the_keys_of_a_message_keep_their_order) {
    const livekv::tokenizer tok =
        with_template("{% for m in messages %}{% for key in m %}{{ key }},{% endfor %}{% endfor %}");
    const auto keys_of = [&](const char * more) {
        return str(chat_template(tok).render({{"user", "hi", more}}, true));
    };
    CHECK_EQ(keys_of(""), "role,content,");
    CHECK_EQ(keys_of(R"({"name": 1})"), "role,content,name,");
    CHECK_EQ(keys_of(R"({"name": 1, "content": "a", "role": "user"})"), "name,content,role,");
    CHECK_ERROR(keys_of("[1]"), "is no JSON object");
}

TEST(a_template_that_reads_no_messages_stands_for_its_family) {
    const livekv::tokenizer tok = with_template("'[INST] ' + content");
    CHECK(has_chat_template(tok));
    CHECK_EQ(str(chat_template(tok).render({{"user", "a"}}, true)), "[INST] a [/INST]");
    CHECK_EQ(passed_over_template(tok), "the model's chat template reads no messages");
    CHECK_EQ(passed_over_template(with_template("{{ messages }}")), "");
    CHECK_EQ(passed_over_template(load({{"a"}})), "");
    CHECK(!has_chat_template(with_template("### Instruction:")));
    CHECK_ERROR(chat_template(with_template("### Instruction:")), "a plain prompt");
}

TEST(what_a_template_refuses_and_what_it_cannot_do_are_one_line) {
    const auto error_of = [](const std::string & source) {
        try {
            chat_template(with_template(source)).render(question, true);
        } catch (const livekv::error & e) {
            return std::string(e.what());
        }
        return std::string();
    };
    CHECK_EQ(error_of("{{ raise_exception('roles must ' + messages[0].role) }}"),
             "the model's chat template: roles must user");
    for (const char * source :
         {"{% for m in messages %}", "{{ messages | no_such_filter }}", "{{ messages[ }}", "{% messages %}"}) {
        const std::string message = error_of(source);
        CHECK(message.starts_with("the model's chat template"));
        CHECK(message.find('\n') == std::string::npos && message.size() > 30);
    }
}

// The engine would recurse until the process ends.
TEST(a_template_without_end_is_refused) {
    const auto repeated = [](const std::string & text, int n) {
        std::string all;
        for (int i = 0; i < n; ++i) {
            all += text;
        }
        return all;
    };
    const auto render = [](const std::string & source) {
        chat_template(with_template(source + "{{ messages }}")).render(question, true);
    };
    constexpr int n = 20000;
    CHECK_ERROR(render("{{ " + repeated("(", n) + "1" + repeated(")", n) + " }}"), "nests too deeply");
    CHECK_ERROR(render("{{ " + repeated("not ", n) + "1 }}"), "nests too deeply");
    CHECK_ERROR(render("{{ 'a'" + repeated("|trim", n) + " }}"), "nests too deeply");
    CHECK_ERROR(render(repeated("{% if 1 %}", n) + repeated("{% endif %}", n)), "nests too deeply");
    CHECK_ERROR(render("{% if 1 %}" + repeated("{% elif 1 %}", n) + "{% endif %}"), "nests too deeply");
    CHECK_ERROR(render(repeated("{% set x %}", n) + repeated("{% endset %}", n)), "nests too deeply");
    CHECK_ERROR(render(repeated("{% set x = 1 %}", n) + repeated("{% for i in x %}", n)), "nests too deeply");
    render(repeated("{% set x = 1 %}{% set y %}{% endset %}{% if x %}{% endif %}", 200));
    const std::string without_end = "its macros call each other without end";
    CHECK_ERROR(render("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}"), without_end);
    CHECK_ERROR(render("{% macro f(g) %}{{ g(g) }}{% endmacro %}{{ f(f) }}"), without_end);
    CHECK_ERROR(render("{% macro f() %}{{ g() }}{% endmacro %}{%- macro g() -%} {{ f() }}{% endmacro %}{{ g() }}"),
                without_end);
    const livekv::tokenizer tok = with_template(
        "{%- macro f(x) -%} {% if x > 1 %}{{ x }},{{ f(x - 1) }}{% else %}1{% endif %}{%- endmacro -%}"
        "{{ f(messages | length + 9) }}");
    CHECK_EQ(str(chat_template(tok).render(question, true)), "10,9,8,7,6,5,4,3,2,1");
}

TEST(what_a_message_says_is_never_a_control_token) {
    const livekv::tokenizer tok =
        with_template("{% for m in messages %}{{ m.content | trim + '<|im_end|>' }}{% endfor %}");
    const chat_template format(tok);
    const auto said = [&](const std::string & content) {
        return format.encode(format.render({{"user", content}}, true));
    };
    const int32_t end = tok.find("<|im_end|>");
    for (const char * content : {"a<|im_end|>b", "<|im_end|>", " <|im_end|> </s>", "a<|im_", "</s"}) {
        const std::vector<int32_t> ids = said(content);
        CHECK_EQ(std::count(ids.begin(), ids.end(), end), 1);
        CHECK_EQ(ids.back(), end);
        CHECK_EQ(std::count(ids.begin(), ids.end(), 2), 0);
    }
    CHECK_EQ(tok.decode(said("a<|im_end|>b"), true), "<s>a<|im_end|>b<|im_end|>");
    CHECK_EQ(check::text(spelled(tok, said("ab")).size()), "3");  // <s>, " ab", <|im_end|>
}

// Some files call a family's marks user-defined: tokens wherever they are written, but not in its chats.
TEST(a_familys_marks_in_a_message_are_text_where_the_file_calls_them_user_defined) {
    const struct {
        chat_family family;
        std::vector<std::string> marks;
    } cases[] = {
        {chat_family::llama2, {"[INST]", "<<SYS>>"}},
        {chat_family::llama3, {"<|begin_of_text|>", "<|start_header_id|>", "<|eot_id|>", "<|python_tag|>"}},
        {chat_family::chatml, {"<|im_start|>", "<|endoftext|>"}},
        {chat_family::gemma, {"<bos>", "<start_of_turn>"}},
        {chat_family::phi3, {"<|user|>", "<|end|>"}},
        {chat_family::mistral, {"[INST]", "[/INST]"}},
        {chat_family::mistral_v3_tekken, {"[INST]", "[/INST]", "[TOOL_CALLS]"}},
        {chat_family::mistral_v7, {"[INST]", "[SYSTEM_PROMPT]"}},
        {chat_family::zephyr, {"<|user|>", "<|assistant|>"}},
    };
    for (const auto & [family, marks] : cases) {
        std::vector<fixtures::token> tokens = fixtures::spm_tokens();
        for (const std::string & mark : marks) {
            tokens.push_back({mark, 4});
        }
        tokens.push_back({"<b>", 4});
        const livekv::tokenizer tok = load(tokens);
        const chat_template format(tok, family);
        const auto said = [&](const std::string & content) {
            return format.encode(format.render({{"user", content}}, true));
        };
        const auto how_often = [&](const std::string & content, const std::string & token) {
            const std::vector<int32_t> ids = said(content);
            return std::count(ids.begin(), ids.end(), tok.find(token));
        };
        for (const std::string & mark : marks) {
            for (const std::string & content : {mark, "a" + mark + "b", " " + mark + "\n"}) {
                CHECK_EQ(how_often(content, mark), how_often("a", mark));
            }
        }
        CHECK_EQ(how_often("a<b>b", "<b>"), 1);  // no mark of the family's
    }
}

TEST_MAIN
