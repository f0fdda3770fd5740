// Several sessions that advance together: passes, errors, and texts.

#include "check.h"
#include "error.h"
#include "session/batch.h"
#include "tiny_sequences.h"

using namespace livekv;
using namespace tiny_sequences;

namespace {

std::vector<std::unique_ptr<session>> sessions_of(const std::shared_ptr<engine> & e,
                                                  const std::vector<std::string> & policies) {
    std::vector<std::unique_ptr<session>> all;
    for (const std::string & policy : policies) {
        all.push_back(std::make_unique<session>(e, params_of(policy, 32)));
    }
    return all;
}

bool holds(const session & s, const std::vector<int32_t> & tokens, size_t n) {
    return std::equal(s.tokens().begin(), s.tokens().end(), tokens.begin(), tokens.begin() + static_cast<long>(n));
}

}  // namespace

TEST(every_session_is_through_and_has_its_own_logits) {
    const auto e = std::make_shared<engine>(tiny_model(), 2);
    std::vector<std::string> policies = {"livekv", "f16", "livekv"};
    policies.resize(22, "f16");  // more than a pass takes
    const auto together = sessions_of(e, policies);
    const auto alone = sessions_of(e, policies);
    std::vector<std::vector<int32_t>> prompts;
    std::vector<session_step> batch;
    std::vector<std::vector<float>> rows(policies.size());
    std::vector<int64_t> next(policies.size(), 0);
    for (size_t i = 0; i < policies.size(); ++i) {
        prompts.push_back(some_tokens(i == 1 ? 1 : 20 + static_cast<int>(i * 37 % 200), static_cast<uint32_t>(i + 5)));
    }
    for (size_t i = 0; i < policies.size(); ++i) {
        next[i] = static_cast<int64_t>(prompts[i].size() / 2);
        batch.push_back({together[i].get(), prompts[i], next[i], token_origin::prompt,
                         [&, i](int64_t first, int64_t n, std::span<const float> logits) {
                             CHECK_EQ(first, next[i]);
                             next[i] += n;
                             rows[i].insert(rows[i].end(), logits.begin(), logits.end());
                         }});
    }
    int n_between = 0;
    step(*e, batch, [&] { ++n_between; });
    CHECK(n_between > 5);
    for (size_t i = 0; i < policies.size(); ++i) {
        std::vector<float> expected;
        alone[i]->eval(prompts[i], static_cast<int64_t>(prompts[i].size() / 2),
                       [&](int64_t, int64_t, std::span<const float> logits) {
                           expected.insert(expected.end(), logits.begin(), logits.end());
                       });
        CHECK_EQ(rows[i].size(), expected.size());
        CHECK(nmse(rows[i], expected) < 1e-6);  // float32 sums in another order
        CHECK(holds(*together[i], prompts[i], prompts[i].size()));
        CHECK(same_bits(together[i]->last_logits(), std::span(rows[i]).last(together[i]->last_logits().size())));
        CHECK(!together[i]->last_logits().empty());
    }
}

TEST(what_is_wrong_is_said_before_the_first_pass) {
    const auto e = std::make_shared<engine>(tiny_model(), 1);
    const auto own = sessions_of(e, {"livekv", "f16"});
    const auto foreign = sessions_of(std::make_shared<engine>(e->get_model(), 1), {"livekv"});
    const std::vector<int32_t> tokens = some_tokens(100);
    own[0]->prefill(some_tokens(10));
    const std::vector<float> before(own[0]->last_logits().begin(), own[0]->last_logits().end());
    const std::vector<int32_t> long_ones = some_tokens(301);
    const std::vector<int32_t> wrong = {1, 100000};
    const auto of = [](session & s, std::span<const int32_t> t) { return session_step{&s, t, 0, {}, {}}; };
    const auto refused = [&](std::vector<session_step> batch, const char * message) {
        CHECK_ERROR(step(*e, batch), message);
        CHECK(holds(*own[0], some_tokens(10), 10) && own[0]->n_tokens() == 10 && own[1]->n_tokens() == 0);
        CHECK(same_bits(own[0]->last_logits(), before));
    };
    refused({of(*own[0], tokens), of(*foreign[0], tokens)}, "belongs to another engine");
    refused({of(*own[0], tokens), of(*own[0], tokens)}, "a session is in the batch twice");
    refused({of(*own[0], tokens), of(*own[1], long_ones)}, "the context holds 300 tokens, 301 are needed");
    refused({of(*own[0], tokens), of(*own[1], {})}, "there are no tokens");
    refused({of(*own[0], tokens), of(*own[1], wrong)}, "token id 100000 is not in the model's vocabulary");
}

TEST(an_id_that_is_none_is_said_before_anything_is_computed) {
    const auto e = std::make_shared<engine>(tiny_model(), 1, size_t(1) << 24);
    const auto own = sessions_of(e, {"livekv", "livekv"});
    std::vector<int32_t> tokens = some_tokens(100);
    own[0]->prefill(tokens);  // a beginning that the engine knows
    tokens.back() = -1;
    session & s = *own[1];
    const session_step alone = {&s, tokens, 99, {}, {}};
    CHECK_ERROR(step(*e, {&alone, 1}), "token id -1 is not in the model's vocabulary");
    CHECK_ERROR(s.prefill(tokens), "token id -1 is not in the model's vocabulary");
    CHECK_ERROR(s.eval(tokens, 0, {}), "token id -1 is not in the model's vocabulary");
    CHECK_ERROR(generation(s, tokens, {}).next(), "token id -1 is not in the model's vocabulary");
    CHECK_EQ(s.n_tokens(), 0);
}

TEST(a_session_keeps_no_logits_but_one_tokens) {
    const auto e = std::make_shared<engine>(tiny_model(), 1);
    const auto own = sessions_of(e, {"livekv", "f16"});
    const std::vector<int32_t> tokens = some_tokens(70);
    const size_t n_vocab = static_cast<size_t>(e->get_model()->hp.n_vocab);
    size_t n_seen = 0;
    const auto sink = [&](int64_t, int64_t, std::span<const float> logits) { n_seen += logits.size(); };
    const std::vector<session_step> batch = {{own[0].get(), tokens, 0, {}, sink}, {own[1].get(), tokens, 0, {}, sink}};
    step(*e, batch);
    own[0]->eval(tokens, 0, sink);
    CHECK_EQ(n_seen, 3 * tokens.size() * n_vocab);
    for (const auto & s : own) {
        CHECK(s->pass_logits().size() <= n_vocab);
        CHECK(s->last_logits().size() == n_vocab);
    }
}

TEST(a_step_ended_between_passes_leaves_whole_passes) {
    const auto e = std::make_shared<engine>(tiny_model(), 1);
    const auto own = sessions_of(e, {"livekv", "livekv"});
    const std::vector<int32_t> tokens = some_tokens(100);
    const std::vector<session_step> batch = {{own[0].get(), tokens, 99, {}, {}},
                                             {own[1].get(), std::span(tokens).first(40), 39, {}, {}}};
    int n_passes = 0;
    CHECK_ERROR(step(*e, batch,
                     [&] {
                         if (++n_passes == 2) {
                             fail("enough");
                         }
                     }),
                "enough");
    CHECK(holds(*own[0], tokens, 64) && own[0]->n_tokens() == 64);
    CHECK(holds(*own[1], tokens, 40) && own[1]->n_tokens() == 40);
    CHECK(own[0]->last_logits().empty() && !own[1]->last_logits().empty());
}

TEST(texts_together_are_those_of_each_alone) {
    const auto e = std::make_shared<engine>(tiny_model(), 2);
    const auto together = sessions_of(e, {"livekv", "f16", "livekv", "q8_0"});
    const auto alone = sessions_of(e, {"livekv", "f16", "livekv", "q8_0"});
    std::vector<std::unique_ptr<generation>> texts;
    std::vector<generation *> running;
    std::vector<generate_params> params(4);
    std::vector<std::vector<int32_t>> prompts;
    for (size_t i = 0; i < 4; ++i) {
        params[i].n_predict = 5 + 9 * static_cast<int64_t>(i);
        params[i].ignore_eos = true;
        params[i].sampling.seed = i;
        prompts.push_back(some_tokens(10 + 30 * static_cast<int>(i), static_cast<uint32_t>(i + 3)));
    }
    together[2]->prefill(prompts[2]);  // goes on from last logits
    for (size_t i = 0; i < 4; ++i) {
        texts.push_back(
            std::make_unique<generation>(*together[i], i == 2 ? std::vector<int32_t>() : prompts[i], params[i]));
        running.push_back(texts.back().get());
    }
    std::vector<std::string> said(4);
    while (!running.empty()) {
        const std::vector<std::string> pieces = step(*e, running);
        for (size_t k = 0; k < running.size(); ++k) {
            for (size_t i = 0; i < 4; ++i) {
                said[i] += running[k] == texts[i].get() ? pieces[k] : "";
            }
        }
        std::erase_if(running, [](const generation * text) { return text->ended(); });
    }
    for (size_t i = 0; i < 4; ++i) {
        std::string expected;
        generate_callbacks callbacks;
        callbacks.on_text = [&](std::string_view piece) {
            expected += piece;
            return true;
        };
        const generate_result r = generate(*alone[i], prompts[i], params[i], callbacks);
        CHECK_EQ(said[i], expected);
        CHECK_EQ(texts[i]->result().n_generated, r.n_generated);
        CHECK_EQ(texts[i]->result().n_prompt, i == 2 ? 0 : r.n_prompt);
        CHECK_EQ(texts[i]->result().last_token, r.last_token);
        CHECK(texts[i]->result().reason == stop_reason::n_predict && texts[i]->result().ttft_s);
        CHECK(std::equal(together[i]->tokens().begin(), together[i]->tokens().end(), alone[i]->tokens().begin(),
                         alone[i]->tokens().end()));
    }
}

TEST_MAIN
