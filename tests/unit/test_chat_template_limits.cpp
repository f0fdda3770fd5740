// Templates that ask for more than a conversation needs, or for what the engine cannot do: an error, whatever they are
// made of, and nothing that was taken stays. Long conversations are no such thing.

#include "../fixtures/small_vocab.h"
#include "check.h"
#include "error.h"
#include "model/gguf_file.h"
#include "model/tokenizer.h"
#include "session/chat_template.h"

using livekv::chat_message;
using livekv::chat_template;

namespace {

const std::vector<chat_message> question = {{"user", "Who?"}};

std::string render(const std::string & source, const std::vector<chat_message> & messages = question,
                   const std::string & variables = {}) {
    fixtures::memory_file file;
    fixtures::vocab_builder builder("llama", fixtures::spm_tokens());
    gguf_set_val_str(builder.gguf, "tokenizer.chat_template", (source + "{# messages #}").c_str());
    builder.write(file);
    const livekv::tokenizer tok{livekv::gguf_file(file.path())};
    return str(chat_template(tok).render(messages, true, variables));
}

std::string repeated(const std::string & text, int n) {
    std::string all;
    for (int i = 0; i < n; ++i) {
        all += text;
    }
    return all;
}

const std::string in_a_loop = "{% for i in range(1000) %}";

}  // namespace

TEST(a_value_cannot_grow_beyond_what_conversations_need) {
    for (const std::string & source : std::vector<std::string>{
             "{{ 'a' * 1000000000000 }}", "{{ 1000000000000 * ('a' * 3) }}", "{{ range(1000000000) }}",
             "{{ range(0, 9000000000000000000, 1) }}", "{{ range(0, -1000000000, -1) | list | length }}",
             "{{ 'a' | indent(1000000000, true) }}", "{{ ('a\n' * 10000) | indent('b' * 10000) }}",
             "{{ messages | tojson(indent=100000000) }}", "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}",
             "{{ ('a' * 100000).replace('', 'b' * 100000) }}", "{{ range(10000) | join('b' * 100000) }}",
             "{{ range(10000) | join(d='b' * 100000) }}", "{% set r = range %}{{ r(1000000000) }}"}) {
        IN(source);
        CHECK_ERROR(render(source), "it takes more memory than any conversation needs");
    }
}

TEST(nor_can_all_values_of_a_run_together) {
    const std::string doubled = "{% set x = x + x %}";
    for (const std::string & source : std::vector<std::string>{
             "{% set x = 'a' %}" + repeated(doubled, 60),
             "{% set x = 'a' %}" + repeated("{% set x %}{{ x }}{{ x }}{% endset %}", 60),
             "{% set x = [1] %}" + repeated(doubled, 60),
             "{% set x = [1] %}" + repeated("{% set x = [x, x] %}", 60) + "{{ x }}",
             "{% set x = 'a' %}" + repeated("{% set x = '{}{}'.format(x, x) %}", 60),
             "{% set x = 'a' * 1000000 %}" + in_a_loop + "{{ x }}{% endfor %}",
             "{% set n = namespace(l=[]) %}" + in_a_loop + "{% set _ = n.l.append('a' * 100000) %}{% endfor %}"}) {
        IN(source.substr(0, 80));
        CHECK_ERROR(render(source), "it takes more memory than any conversation needs");
    }
}

TEST(a_run_ends) {
    const std::string endless = "than any conversation needs";
    const std::string ends = "{% endfor %}";
    for (const std::string & source : std::vector<std::string>{
             in_a_loop + in_a_loop + in_a_loop + ends + ends + ends, in_a_loop + in_a_loop + "{{ i }}" + ends + ends,
             "{% set l = range(20000) %}" + in_a_loop + "{% for j in l if false %}" + ends + ends,
             "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}"}) {
        IN(source);
        CHECK_ERROR(render(source), endless);
    }
}

TEST(what_would_end_the_process_is_an_error) {
    CHECK_ERROR(render("{{ 7 is divisibleby(0) }}"), "divisibleby needs a number other than 0 and -1");
    CHECK_ERROR(render("{{ (-9223372036854775807 - 1) is divisibleby(-1) }}"), "divisibleby");
    const std::string in_itself = "cannot hold itself";
    CHECK_ERROR(render("{% set l = [1] %}{% set _ = l.append(l) %}{{ l }}"), in_itself);
    CHECK_ERROR(render("{% set l = [1] %}{% set _ = l.append([{'a': (1, l)}]) %}"), in_itself);
    CHECK_ERROR(render("{% set n = namespace() %}{% set n.n = n %}{{ n | tojson }}"), in_itself);
    CHECK_ERROR(render("{% set n = namespace(l=[]) %}{% set _ = n.l.append(n) %}"), in_itself);
    CHECK_ERROR(render("{% macro m() %}{% set messages[0].f = caller %}{% endmacro %}{% call m() %}{% endcall %}"),
                in_itself);
    CHECK_ERROR(render("{% set n = namespace(l=[]) %}" + in_a_loop + "{% set n.l = [n.l] %}{% endfor %}"),
                "its lists nest too deeply");
    const std::string unordered = "it sorts values of several types";
    CHECK_ERROR(render("{{ ([1, 'a', none] * 1) | sort if false else ([1, '9', 10] + range(30)) | sort }}"), unordered);
    CHECK_ERROR(render("{% set d = dict() %}{% for i in range(30) %}{% set d.x = i %}{% endfor %}"
                       "{{ (range(30) + ['1', none]) | sort(reverse=true) }}"),
                unordered);
    CHECK_ERROR(
        render("{{ ([{'a': 1}, {'a': '2'}, {}] + [{'a': 3}, {'a': '4'}, {}] + [{'a': 5}, {'a': '6'}, {}] +"
               "[{'a': 1}, {'a': '2'}, {}] + [{'a': 3}, {'a': '4'}, {}] + [{'a': 5}, {}]) | sort(attribute='a') }}"),
        unordered);
    CHECK_ERROR(render("{% call range(1000000000) %}{% endcall %}"), "no macro");
    CHECK_ERROR(render("{% set f = 'a'.replace %}{% call f('', 'b' * 1000) %}{% endcall %}"), "no macro");
}

TEST(what_a_message_holds_may_not_nest_without_end) {
    const auto nested = [](int n) { return repeated("[", n) + "1" + repeated("]", n); };
    const std::string source = "{{ messages[0].x | tojson }}";
    CHECK_EQ(render(source, {{"user", "", "{\"x\": " + nested(80) + "}"}}), nested(80));
    CHECK_ERROR(render(source, {{"user", "", "{\"x\": " + nested(100000) + "}"}}), "nest too deeply");
    CHECK_ERROR(render(source, question, "{\"tools\": " + nested(100000) + "}"), "nest too deeply");
    CHECK_ERROR(render(source, question, "{"), "are no JSON");
    CHECK_ERROR(render(source, {{"user", "", nested(3)}}), "is no JSON object");
    CHECK_ERROR(render(source, {{"user", "", "{"}}), "is no JSON object");
}

TEST(what_a_variable_holds_is_bounded_as_messages_are) {
    const auto with = [](const std::string & source, const std::string & variables) {
        return render(source, {{"user", "a"}}, variables);
    };
    const auto nested = [](int n) { return "{\"tools\": " + repeated("[", n) + "1" + repeated("]", n) + "}"; };
    CHECK_EQ(with("{{ tools | tojson }}", nested(80)), repeated("[", 80) + "1" + repeated("]", 80));
    CHECK_ERROR(with("{{ tools | tojson }}", nested(100000)), "nest too deeply");
    CHECK_ERROR(with("{{ tools }}", "{"), "the variables of a chat template are no JSON");
    CHECK_ERROR(with("{{ tools }}", "[1]"), "are no JSON object");
    CHECK_ERROR(with("{{ tools * 1000000000000 }}", "{\"tools\": \"a\"}"), "more memory than any conversation needs");
    CHECK_EQ(with("{{ tools }}", "{\"tools\": 9223372036854775807}"), "9223372036854775807");
}

TEST(what_is_guarded_gives_what_it_gave) {
    CHECK_EQ(render("{{ 'ab' * 3 }}{{ 2 * 'c' }}{{ 2 * 3 }}{{ 'd' * -1 }}"), "abababcc6");
    CHECK_EQ(render("{{ range(3) | join('-') }} {{ [3, 1, 2] | sort(reverse=true) | join }} {{ 'a\nb' | indent(2) }}"),
             "0-1-2 321 a\n  b");
    CHECK_EQ(render("{{ [{'a': 2, 'b': 'x'}, {'a': 1, 'b': 'y'}] | sort(attribute='a') | map(attribute='b') | join }}"),
             "yx");
    CHECK_EQ(render("{% if 6 is divisibleby(3) and 7 is not divisibleby(3) %}yes{% endif %}"), "yes");
    CHECK_EQ(render("{% set n = namespace(a=1) %}{% set n.a = n.a + 1 %}{% set n.b %}x{% endset %}{{ n.a }}{{ n.b }}"),
             "2x");
    CHECK_EQ(render("{% macro m(a, b='c') %}<{{ a }}{{ b }}{{ caller(1) }}>{% endmacro %}"
                    "{% call(x) m('a') %}{{ x }}{% endcall %}"),
             "<ac1>");
    CHECK_EQ(render("{% filter upper %}a{{ 'b' }}{% endfilter %}{% set x, y = 'uv', 'w' %}{{ x }}{{ y[::-1] }}"),
             "ABuvw");
    CHECK_EQ(render("{% for k, v in {'a': 1, 'b': 2}.items() if v > 1 %}{{ k }}{% else %}none{% endfor %}"), "b");
    CHECK_EQ(render("{{ none or 'a' }}{{ false and missing.thing.else }}{{ 'b' if true else missing() }}"), "aFalseb");
}

// What some templates do with each message: look at those before it, take the list anew, join texts.
TEST(a_long_conversation_is_within_the_bounds) {
    std::vector<chat_message> talk;
    for (int i = 0; i < 300; ++i) {
        talk.push_back({"user", "What is " + std::to_string(i) + "?"});
        talk.push_back({"assistant", std::string(500, 'a')});
    }
    const std::string text = render(
        "{% set ns = namespace(last=0, text='') %}{% for m in messages[::-1] %}{% if m.role == 'user' and not ns.last "
        "%}"
        "{% set ns.last = loop.revindex0 %}{% endif %}{% endfor %}"
        "{% for m in messages %}{% set before = messages[:loop.index0] | selectattr('role', 'equalto', 'user') | list "
        "%}"
        "{% set content = '<' + m.role + '>' + m.content | trim + '</' ~ m.role ~ '>' %}"
        "{% if loop.index0 > ns.last %}!{% endif %}{{ before | length }}{{ content }}\n{% endfor %}",
        talk);
    CHECK(text.ends_with("!300<assistant>" + std::string(500, 'a') + "</assistant>\n"));
    std::vector<chat_message> one = {{"user", std::string(4 << 20, 'a')}};
    CHECK_EQ(render("{% for m in messages %}{{ '<' + m.content | replace('b', 'c') + '>' }}{% endfor %}", one).size(),
             (size_t(4) << 20) + 2);
}

TEST_MAIN
