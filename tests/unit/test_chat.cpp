// Conversations in a session: what a turn reads, what the cache holds, and turns that do not come to their end. The
// model answers with a chain of tokens: each token has one successor.

#include <map>

#include "check.h"
#include "error.h"
#include "session/chat.h"
#include "tiny_sequences.h"

using namespace livekv;
using namespace tiny_sequences;

namespace {

constexpr int32_t hello = 259;
constexpr int32_t friend_ = 260;
constexpr int32_t n_vocab = 288;
constexpr int32_t end_of_text = 2;

int32_t byte(char c) {
    return 3 + static_cast<uint8_t>(c);
}

// next: the token that follows a token; the others are followed by <unk>.
std::shared_ptr<const model> chain_model(const std::string & source, const std::map<int32_t, int32_t> & next) {
    tiny_spec spec;
    spec.n_layer = 1;
    spec.n_embd = n_vocab;
    spec.n_vocab = n_vocab;
    spec.n_ctx = 2048;
    spec.edit_values = [next](const std::string & name, std::vector<float> & values) {
        if (name.find("norm") != std::string::npos) {
            return;
        }
        std::fill(values.begin(), values.end(), 0.0f);
        for (int32_t id = 0; id < n_vocab && name == "token_embd.weight"; ++id) {
            values[static_cast<size_t>(id * n_vocab + id)] = 1.0f;
        }
        if (name == "output.weight") {
            for (const auto & [from, to] : next) {
                values[static_cast<size_t>(to * n_vocab + from)] = 1.0f;
            }
        }
    };
    spec.edit_keys = [source](gguf_context * g) {
        gguf_set_val_str(g, "tokenizer.chat_template", source.c_str());
        gguf_set_val_bool(g, "tokenizer.ggml.add_bos_token", true);
    };
    const temporary_file file(".gguf");
    tiny::writer(spec).write(file.path());
    return model::load(file.path());
}

// " hello friend" and the end, behind ']' and behind a line's end.
const std::map<int32_t, int32_t> polite = {
    {byte(']'), hello}, {byte('\n'), hello}, {hello, friend_}, {friend_, end_of_text}};

struct talk_of {
    explicit talk_of(const std::string & source, const std::map<int32_t, int32_t> & next = polite, int64_t n_ctx = 2048,
                     int64_t keep = 0)
        : m(chain_model(source, next)),
          s(m, params_of("livekv", 32, n_ctx)),
          format(m->vocab),
          talk(s, format),
          n_keep(keep) {}

    // n_prefill: tokens of the prompt after which the turn is interrupted.
    chat_turn ask(const std::string & message, int64_t n_predict = 12, int64_t n_prefill = -1) {
        return talk.ask(message, [&](const std::vector<int32_t> & tokens, const auto & on_text) {
            read = tokens;
            generate_params p;
            p.n_predict = n_predict;
            p.n_keep = n_keep;
            p.sampling.temperature = 0.0;
            generate_callbacks callbacks;
            callbacks.on_prefill = [&](int64_t n_done) { return n_prefill < 0 || n_done < n_prefill; };
            callbacks.on_text = [&](std::string_view piece) {
                on_text(piece);
                return true;
            };
            return generate(s, tokens, p, callbacks);
        });
    }

    std::vector<int32_t> held() const { return {s.tokens().begin(), s.tokens().end()}; }
    std::string text() const { return m->vocab.decode(held(), true); }

    // What the template makes of the conversation up to the last answer, in one go.
    std::vector<int32_t> at_once() const {
        std::vector<chat_message> messages = talk.messages();
        messages.pop_back();
        return format.encode(format.render(messages, true));
    }

    std::shared_ptr<const model> m;
    session s;
    chat_template format;
    chat talk;
    int64_t n_keep;
    std::vector<int32_t> read;  // by the last turn
};

const std::map<std::string, std::string> formats = {
    {"llama2", chat_family_template(chat_family::llama2)},
    {"llama3", chat_family_template(chat_family::llama3)},
    {"chatml", chat_family_template(chat_family::chatml)},
    {"mistral", chat_family_template(chat_family::mistral)},
    {"zephyr", chat_family_template(chat_family::zephyr)},
    {"with_bos",
     "{{ bos_token }}{% for m in messages %}{{ '[' + m.role + ']' + m.content + eos_token }}{% endfor %}"
     "{% if add_generation_prompt %}[assistant]{% endif %}"},
};

}  // namespace

TEST(a_turn_reads_what_is_new) {
    for (const auto & [name, source] : formats) {
        talk_of t(source);
        t.ask("hi");
        const size_t first = t.read.size();
        std::vector<int32_t> before = t.held();
        for (const char * message : {"again", "third", "four!"}) {
            const chat_turn turn = t.ask(message);
            CHECK_EQ(turn.answer, " word259 word260");
            CHECK_EQ(turn.n_read_anew, 0);
            CHECK(turn.result.reason == stop_reason::end_of_text);
            CHECK(t.read.size() <= first + 12);  // what ends the former turn, and a longer message
            const std::vector<int32_t> now = t.held();
            CHECK(now.size() == before.size() + t.read.size() + 2);  // the answer's two tokens
            CHECK(std::equal(before.begin(), before.end(), now.begin()));
            before = now;
        }
        const auto bos = std::ranges::count(before, 1);
        CHECK_EQ(bos, name == "llama2" ? 4 : 1);
    }
}

// Where the template puts nothing but space around an answer, the cache holds what one rendering would give.
TEST(turns_hold_what_one_rendering_gives) {
    for (const char * name : {"mistral", "llama2"}) {
        talk_of t(formats.at(name),
                  {{byte(']'), byte(' ')}, {byte(' '), byte('A')}, {byte('A'), byte('B')}, {byte('B'), end_of_text}});
        t.talk.set_system("word259");
        t.ask("hi");
        t.ask("again");
        t.ask("third");
        std::vector<int32_t> prompt = t.held();
        prompt.resize(prompt.size() - 3);  // less " AB"
        CHECK_EQ(t.m->vocab.decode(prompt, true), t.m->vocab.decode(t.at_once(), true));
        CHECK(prompt == t.at_once());
    }
}

TEST(an_answer_cut_off_stays_and_its_turn_ends_with_the_next) {
    talk_of t(formats.at("chatml"));
    const chat_turn turn = t.ask("hi", 1);
    CHECK(turn.result.reason == stop_reason::n_predict);
    CHECK_EQ(turn.answer, " word259");
    t.ask("again");
    CHECK_EQ(t.read.front(), hello);
    CHECK_EQ(t.text(),
             "<s><|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n word259<|im_end|>\n"
             "<|im_start|>user\nagain<|im_end|>\n<|im_start|>assistant\n word259 word260");
}

TEST(an_interrupted_turn_is_taken_back_whole) {
    for (const int64_t n_predict : {12, 1}) {
        talk_of t(formats.at("chatml"));
        talk_of undisturbed(formats.at("chatml"));
        t.ask("hi", n_predict);
        undisturbed.ask("hi", n_predict);
        const std::vector<int32_t> before = t.held();
        const std::string long_message(300, 'x');
        for (const int64_t n_prefill : {1, 100, 200, 320}) {
            const chat_turn turn = t.ask(long_message, 12, n_prefill);
            CHECK(turn.taken_back);
            CHECK_EQ(turn.result.n_generated, 0);
            CHECK(t.held() == before);
            CHECK_EQ(t.talk.messages().size(), 2u);
        }
        CHECK_EQ(t.ask("hello").answer, " word259 word260");
        undisturbed.ask("hello");
        CHECK(t.held() == undisturbed.held());
    }
    talk_of first(formats.at("chatml"));
    CHECK(first.ask(std::string(300, 'x'), 12, 64).taken_back);
    CHECK_EQ(first.s.n_tokens(), 0);
    first.ask("hi");
    CHECK(first.text().find('x') == std::string::npos);
}

TEST(a_turn_that_fails_is_taken_back) {
    talk_of t(formats.at("chatml"));
    t.ask("hi");
    const std::vector<int32_t> before = t.held();
    CHECK_ERROR(t.ask(std::string(3000, 'x')), "the context holds 2048 tokens");
    CHECK(t.held() == before);
    CHECK_EQ(t.talk.messages().size(), 2u);
    CHECK_EQ(t.ask("again").answer, " word259 word260");
}

// A conversation longer than its context: the oldest turns leave, and a turn that is taken back leaves what stayed.
TEST(turns_go_on_when_the_context_is_full) {
    talk_of t(formats.at("chatml"), polite, 400, 40);
    const std::string message(90, 'm');
    for (int turn = 0; turn < 12; ++turn) {
        CHECK_EQ(t.ask(message).answer, " word259 word260");
        CHECK(t.read.size() < 200 && t.s.n_tokens() <= 400);
    }
    CHECK(t.s.n_forgotten() > 600);
    const std::string kept = t.text().substr(0, 40);
    CHECK_EQ(kept, ("<s><|im_start|>user\n" + message).substr(0, 40));
    const int64_t forgotten = t.s.n_forgotten();
    while (t.s.n_forgotten() == forgotten) {
        std::vector<int32_t> left = t.held();
        const chat_turn turn = t.ask(message, 12, 32);
        CHECK(turn.taken_back);
        const int64_t gone = t.s.n_forgotten() - forgotten;
        left.erase(left.begin() + 64, left.begin() + 64 + gone);
        CHECK(t.held() == left);
        if (gone == 0) {
            t.ask(message);
        }
    }
    const std::vector<int32_t> held = t.held();
    CHECK_ERROR(t.ask(std::string(500, 'x')), "the context holds 400 tokens");
    CHECK(t.held() == held);
    CHECK_EQ(t.ask("again").answer, " word259 word260");
}

// As templates do that put the system message into the newest user message, or leave former thoughts out.
TEST(a_template_that_rewrites_former_turns_reads_from_where_they_differ) {
    talk_of t("{% for m in messages %}[{{ m.role }}{% if loop.last %}, now{% endif %}]{{ m.content }}\n{% endfor %}");
    t.ask("hi");
    CHECK_EQ(t.text(), "<s>[user, now]hi\n word259 word260");
    const chat_turn second = t.ask("again");
    CHECK(second.n_read_anew > 0);
    CHECK_EQ(t.text(), "<s>[user]hi\n[assistant]word259 word260\n[user, now]again\n word259 word260");
    CHECK_EQ(t.read.size() + 9, static_cast<size_t>(t.s.n_tokens()));  // <s>, a space, "[user", and two of the answer
    // Interrupted, it leaves what the two prompts share, and the turn after it starts from there.
    CHECK(t.ask(std::string(300, 'x'), 12, 64).taken_back);
    t.ask("third");
    CHECK_EQ(t.text(),
             "<s>[user]hi\n[assistant]word259 word260\n[user]again\n[assistant]word259 word260\n"
             "[user, now]third\n word259 word260");
}

TEST(control_tokens_that_a_user_types_are_text) {
    talk_of t(formats.at("mistral"));
    t.ask("hi</s>");
    t.ask("</s>");
    CHECK_EQ(std::ranges::count(t.held(), end_of_text), 1);  // the first answer's
    CHECK(t.text().find("[INST] </s> [/INST]") != std::string::npos);
}

TEST_MAIN
