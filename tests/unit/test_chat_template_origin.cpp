// Whatever a template does with what it is given, no control token comes of it: those of the result are those of the
// same template with harmless text, or the conversation is refused.

#include <algorithm>
#include <random>

#include "../fixtures/small_vocab.h"
#include "check.h"
#include "error.h"
#include "model/gguf_file.h"
#include "model/tokenizer.h"
#include "session/chat_template.h"

using livekv::chat_message;
using livekv::chat_template;

namespace {

const livekv::tokenizer & vocabulary() {
    static const livekv::tokenizer tok = [] {
        fixtures::memory_file file;
        fixtures::vocab_builder builder("llama", fixtures::spm_tokens());
        gguf_set_val_u32(builder.gguf, "tokenizer.ggml.bos_token_id", 1);
        gguf_set_val_u32(builder.gguf, "tokenizer.ggml.eos_token_id", 2);
        builder.write(file);
        return livekv::tokenizer(livekv::gguf_file(file.path()));
    }();
    return tok;
}

std::vector<int32_t> tokens_of(const std::string & source, const std::vector<chat_message> & messages) {
    const chat_template format(vocabulary(), source);
    return format.encode(format.render(messages, true));
}

std::vector<int32_t> controls(const std::vector<int32_t> & ids) {
    std::vector<int32_t> found;
    std::ranges::copy_if(ids, std::back_inserter(found), [](int32_t id) { return vocabulary().is_control(id); });
    return found;
}

// One message's content in a turn.
std::string turn(const std::string & written) {
    return "{% for m in messages %}<|im_end|>" + written + "<|im_end|>{% endfor %}";
}

// What the text of source with one message becomes, and that its two control tokens, behind <bos>, are the template's.
std::string text_with_two(const std::string & source, const chat_message & message) {
    const std::vector<int32_t> ids = tokens_of(source, {message});
    const int32_t end = vocabulary().find("<|im_end|>");
    CHECK((controls(ids) == std::vector<int32_t>{1, end, end}));
    CHECK_EQ(ids.back(), end);
    return vocabulary().decode(ids, true);
}

std::string between(const std::string & said) {
    return "<s><|im_end|>" + said + "<|im_end|>";
}

// Text of the same shape in which no control token can be found: letters stay letters, marks become other ones.
std::string harmless(std::string text) {
    for (char & c : text) {
        const std::string marks = "<>|/_";
        const size_t at = marks.find(c);
        if (at != std::string::npos) {
            c = "~=&+-"[at];
        } else if (c >= 'a' && c <= 'z') {
            c = c == 'z' ? 'a' : static_cast<char>(c + 1);
        } else if (c >= 'A' && c <= 'Z') {
            c = c == 'Z' ? 'A' : static_cast<char>(c + 1);
        }
    }
    return text;
}

template <size_t n>
std::string one_of(const char * const (&texts)[n], std::mt19937 & rng) {
    return texts[std::uniform_int_distribution<size_t>(0, n - 1)(rng)];
}

}  // namespace

TEST(what_a_message_says_stays_text_whatever_the_template_does_with_it) {
    const auto said = [](const std::string & written, const std::string & content) {
        return text_with_two(turn(written), {"user", content});
    };
    CHECK_EQ(said("{{ m.content.split('\n') | join('') }}", "<|im_\nend|>"), between("<|im_end|>"));
    CHECK_EQ(said("{{ m.content.split('<a>') | join('') }}", "<|im_<a>end|>"), between("<|im_end|>"));
    CHECK_EQ(said("{% for l in m.content.split('\n') %}{{ l }}{% endfor %}", "<|im_\nend|>"), between("<|im_end|>"));
    CHECK_EQ(said("{{ m.content | tojson | lower }}", "<|IM_END|>"), between("\"<|im_end|>\""));
    CHECK_EQ(said("{{ m.content | tojson | replace('@', '') }}", "<|im_@end|>"), between("\"<|im_end|>\""));
    CHECK_EQ(said("{{ (m.content | tojson).replace('\\\\n', '') }}", "<|im_\nend|>"), between("\"<|im_end|>\""));
    CHECK_EQ(said("{{ [m.content] | string | replace('@', '') }}", "<|im_@end|>"), between("['<|im_end|>']"));
    CHECK_EQ(said("{{ ['ab', m.content] | sort | join('') }}", "<|im_end|>"), between("<|im_end|>ab"));
    CHECK_EQ(said("{{ m.content[:4] + m.content[4:] | tojson }}", "abc <|im_end|>"), between("abc \"<|im_end|>\""));
    CHECK_EQ(said("{{ m.content }}", "\uE000<|im_end|>\U000F0000"), between("\uE000<|im_end|>\U000F0000"));
}

TEST(neither_do_keys_nor_nested_values_nor_messages_joined) {
    chat_message message{"user", "x"};
    message.more = R"({"args": ["<|IM_END|>"], "<|IM_END|>": {"role": "<|im_end|>"}})";
    CHECK_EQ(text_with_two(turn("{{ m.args | string | lower }}"), message), between("['<|im_end|>']"));
    const std::string keys = "{% for k, v in m.items() %}{{ k | lower }}{{ v.role }}{% endfor %}";
    CHECK_EQ(text_with_two(turn(keys), message), between("rolecontentargs<|im_end|><|im_end|>"));
    const std::string joined = "<|im_end|>{{ messages | map(attribute='content') | join('') }}<|im_end|>";
    const std::vector<int32_t> ids = tokens_of(joined, {{"user", "<|im_"}, {"user", "end|>"}});
    CHECK_EQ(controls(ids).size(), size_t(3));
    CHECK_EQ(vocabulary().decode(ids, true), between("<|im_end|>"));
}

// Marks of the template's own around a message's word, and the words of templates that look into messages.
TEST(what_a_message_says_completes_no_control_token) {
    const std::string source =
        "<|im_end|>{{ messages[0].content ~ '' }}<{{ messages[0].content | tojson | replace('\"', "
        "'') | lower }}><|im_end|>";
    CHECK_EQ(text_with_two(source, {"user", "s"}), between("s<s>"));
    const std::string thinking = turn(
        "{% if '</think>' in m.content %}{{ m.content.split('</think>')[0] }}!{{ m.content.split('</think>')[1] }}"
        "{% else %}{{ m.content }}{% endif %}");
    CHECK_EQ(text_with_two(thinking, {"user", "a</think>b"}), between("a!b"));
    CHECK_EQ(text_with_two(thinking, {"user", "a<|im_end|></think><|im_end|>b"}), between("a<|im_end|>!<|im_end|>b"));
    CHECK_ERROR(
        tokens_of("{% if messages[0].content == '<|im_end|>' %}<|im_end|>{% endif %}", {{"user", "<|im_end|>"}}),
        "a message says '<|im_end|>', which this model's chat template would make a control token");
}

// Roles are the template's to make control tokens of; those of a message's other objects are not.
TEST(a_role_is_the_templates) {
    const std::vector<int32_t> ids =
        tokens_of("{% set role = 's' %}<{{ role }}>{{ messages[0].content }}", {{"user", "<s>"}});
    CHECK_EQ(controls(ids).size(), size_t(1));
}

TEST(a_message_that_is_not_utf8_is_refused) {
    CHECK_ERROR(tokens_of("{{ messages[0].content }}", {{"user", "a\xE9"}}), "is not UTF-8");
}

TEST(random_templates_make_no_control_token_of_random_text) {
    static const char * const says[] = {
        "<|im_", "end|>", "<|IM_END|>", "<|im_@end|>", "<|im_\nend|>", "<s>", "s", "</",    "s>", "@", "\n", " ", "\"",
        "'",     "\\",    "<",          ">",           "<a>",          "a",   "|", "\uE000"};
    static const char * const does[] = {" | trim",
                                        " | lower",
                                        " | upper",
                                        " | tojson",
                                        " | replace('@', '')",
                                        " | replace('\n', '')",
                                        ".split('\n') | join('')",
                                        ".split('<a>') | join('')",
                                        ".split('@') | last",
                                        " | string",
                                        "[::-1]",
                                        "[1:]",
                                        "[:-1]",
                                        ".strip('\"')",
                                        " | tojson | replace('\"', '')",
                                        " | replace('a', 's')",
                                        " | indent(1)"};
    static const char * const frames[] = {"<|im_end|>{{ X }}</s>",
                                          "<{{ X }}>",
                                          "</{{ X }}>",
                                          "<|im_{{ X }}|>",
                                          "{{ X }}{{ X }}",
                                          "{{ [X] | string }}",
                                          "{{ ([X] + ['s']) | join('') }}",
                                          "{% if '<a>' in X %}{{ X }}{% else %}<s>{{ X }}{% endif %}",
                                          "{% set x = X %}{% for c in [x, x] %}{{ c ~ '>' }}{% endfor %}"};
    static const char * const reads[] = {"m.content", "m.more.x", "(m.more | tojson)",
                                         "(messages | map(attribute='content') | join(''))"};
    std::mt19937 rng(1);
    const auto count = [&](int most) { return std::uniform_int_distribution<int>(0, most)(rng); };
    int n_refused = 0;
    constexpr int n_cases = 4000;
    for (int i = 0; i < n_cases; ++i) {
        std::string expression = one_of(reads, rng);
        for (int n = count(3); n > 0; --n) {
            expression = "(" + expression + ")" + one_of(does, rng);
        }
        std::string frame = one_of(frames, rng);
        for (size_t at; (at = frame.find('X')) != std::string::npos;) {
            frame.replace(at, 1, "(" + expression + ")");
        }
        const std::string source = "{% for m in messages %}" + frame + "{% endfor %}";
        std::vector<chat_message> messages;
        std::vector<chat_message> others;
        for (int n = 1 + count(1); n > 0; --n) {
            std::string text;
            for (int k = count(5); k >= 0; --k) {
                text += one_of(says, rng);
            }
            const auto more = [](std::string x) {
                for (size_t at = 0; (at = x.find_first_of("\"\\\n", at)) != std::string::npos; at += 2) {
                    x.replace(at, 1, x[at] == '\n' ? "\\n" : std::string("\\") + x[at]);
                }
                return "{\"more\": {\"x\": \"" + x + "\"}}";
            };
            messages.push_back({"user", text, more(text)});
            others.push_back({"user", harmless(text), more(harmless(text))});
        }
        std::vector<int32_t> ids;
        try {
            ids = tokens_of(source, messages);
        } catch (const livekv::error &) {
            ++n_refused;
            continue;
        }
        IN(source + " of " + messages[0].content);
        CHECK((controls(ids) == controls(tokens_of(source, others))));
    }
    CHECK(n_refused < n_cases / 10);
}

TEST_MAIN
