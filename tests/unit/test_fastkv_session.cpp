// Sequences of policy fastkv: forks, trims, batches, steps that fail, and what is refused.

#include <limits>

#include "error.h"
#include "failing_allocations.h"
#include "fastkv_sessions.h"
#include "session/batch.h"

using namespace fastkv_sessions;

TEST(a_fork_goes_on_bit_for_bit) {
    const std::shared_ptr<const model> m = four_layers();
    session s(m, fastkv_params(32));
    s.prefill(some_tokens(100));
    const auto copy = s.fork();
    CHECK(held(s) == held(*copy));
    for (const int32_t token : some_tokens(40, 9)) {
        CHECK(same_bits(s.append(token), copy->append(token)));
    }
}

TEST(a_trim_behind_the_prompt_is_exact_and_one_into_it_reads_it_anew) {
    const std::shared_ptr<const model> m = four_layers();
    const std::vector<int32_t> tokens = some_tokens(100);
    const std::vector<int32_t> more = some_tokens(50, 9);
    session s(m, fastkv_params(32));
    session other(m, fastkv_params(32));
    s.prefill(tokens);
    other.prefill(tokens);
    for (size_t i = 0; i < more.size(); ++i) {
        s.append(more[i]);
        if (i < 10) {
            other.append(more[i]);
        }
    }
    s.trim(110);
    const auto mine = s.append(5);
    const auto expected_after = other.append(5);
    CHECK(nmse({mine.begin(), mine.end()}, {expected_after.begin(), expected_after.end()}) < 1e-6);
    s.trim(60);
    CHECK(s.cache().judges_prompt());
    CHECK_ERROR(s.append(5),
                "the prompt in a cache of policy fastkv is not complete: it has 60 tokens, and generated "
                "text does not follow them");
    CHECK_EQ(s.n_tokens(), 60);
    session fresh(m, fastkv_params(32));
    const std::vector<float> expected = last_logits(fresh, tokens);
    CHECK(nmse(last_logits(s, {tokens.begin() + 60, tokens.end()}), expected) < 1e-6);
    s.trim(0);
    CHECK(same_bits(last_logits(s, tokens), expected));
}

TEST(a_trim_never_ends_among_what_is_kept_or_waits) {
    const std::shared_ptr<const model> m = four_layers();
    const std::vector<int32_t> tokens = some_tokens(300);
    session_params p = fastkv_params(32);
    p.kv.store = kv_store_as::livekv;
    session sealed(m, p);  // 60 tokens in two blocks
    sealed.prefill(tokens);
    for (const int64_t n : {299, 280, 250, 1}) {
        CHECK_EQ(sealed.exact_trim(n), 0);
    }
    CHECK_EQ(sealed.exact_trim(300), 300);
    session s(m, fastkv_params(32));
    step(*s.get_engine(),
         std::vector<session_step>{{&s, std::span(tokens).first(100), 99, token_origin::prompt, {}, 200}});
    CHECK_EQ(s.exact_trim(100), 100);
    CHECK_EQ(s.exact_trim(64), 0);
    s.trim(64);
    session fresh(m, fastkv_params(32));
    CHECK(nmse(last_logits(s, {tokens.begin() + 64, tokens.end()}), last_logits(fresh, tokens)) < 1e-6);
}

TEST(text_read_after_the_prompt_stays_whole) {
    const std::shared_ptr<const model> m = four_layers();
    session s(m, fastkv_params(64));
    session one_by_one(m, fastkv_params(64));
    s.prefill(some_tokens(100));
    one_by_one.prefill(some_tokens(100));
    const std::vector<int32_t> more = some_tokens(90, 9);
    const std::vector<float> at_once = last_logits(s, more);
    std::vector<float> last;
    for (const int32_t token : more) {
        const auto logits = one_by_one.append(token);
        last.assign(logits.begin(), logits.end());
    }
    CHECK(nmse(at_once, last) < 1e-6);
    const kv_report report = s.cache().report();
    CHECK_EQ(report.fastkv->n_tokens, 100);
}

TEST(a_step_that_fails_leaves_what_was) {
    const std::shared_ptr<const model> m = four_layers();
    const std::vector<int32_t> tokens = some_tokens(150);
    session untouched(m, fastkv_params(32));
    const std::vector<float> expected = last_logits(untouched, tokens);
    if (!allocations::can_fail) {
        SKIP("a sanitizer has an allocator of its own");
    }
    int n_failed = 0;
    for (int64_t at = 0; at < 3000; at += 7) {
        session s(m, fastkv_params(32));
        const auto first = std::span(tokens).first(100);
        step(*s.get_engine(), std::vector<session_step>{{&s, first, 99, token_origin::prompt, {}, 50}});
        const size_t bytes = s.cache().bytes();
        const std::vector<int32_t> rest(tokens.begin() + 100, tokens.end());
        if (!allocations::fails_at(at, [&] { s.prefill(rest); })) {
            break;
        }
        ++n_failed;
        CHECK(s.cache().judges_prompt());
        CHECK(s.n_tokens() >= 100 && s.n_tokens() < 150);
        CHECK(s.n_tokens() > 100 || s.cache().bytes() < 2 * bytes);
        CHECK(nmse(last_logits(s, {tokens.begin() + s.n_tokens(), tokens.end()}), expected) < 1e-6);
    }
    CHECK(n_failed > 20);
}

TEST(a_bad_number_is_named_by_its_place) {
    tiny_spec spec;
    spec.n_layer = 4;
    spec.edit_values = [](const std::string & name, std::vector<float> & values) {
        if (name == "blk.3.attn_v.weight") {
            values[5] = std::numeric_limits<float>::infinity();
        }
    };
    session s(tiny_model(spec), fastkv_params(32));
    CHECK_ERROR(s.prefill(some_tokens(100)), "layer 3");
    CHECK_EQ(s.n_tokens(), 96);  // three chunks are read to the layer that chooses
    CHECK(s.cache().judges_prompt());
}

TEST(what_it_cannot_do_is_refused) {
    const std::shared_ptr<const model> m = four_layers();
    const auto e = std::make_shared<engine>(m, 2);
    session s(e, fastkv_params(32));
    const std::vector<int32_t> tokens = some_tokens(20);
    std::vector<float> logits(20 * 259);
    const auto cache = e->make_cache(fastkv_params(32).kv, 100);
    const auto another = e->make_cache(fastkv_params(32).kv, 100);
    const batch_item one = {cache.get(), tokens, token_origin::prompt, true, 20, logits.data()};
    CHECK_ERROR(e->step({&one, 1}),
                "of a prompt that is judged as a whole (policy fastkv) the last token's logits "
                "alone are known");
    const batch_item two[] = {{cache.get(), tokens, token_origin::prompt, true, 0, nullptr},
                              {another.get(), tokens, token_origin::prompt, true, 0, nullptr}};
    CHECK_ERROR(e->step(two), "a prompt that is judged as a whole (policy fastkv) is read alone, not in a batch of 2");
    s.prefill(tokens);
    CHECK_ERROR(s.save("/tmp/none.kv"), "only livekv, kvstream, guided and kivi caches can be saved");
    CHECK_ERROR(s.cache().dump(0), "holds is of other tokens in each head");
    CHECK_ERROR(s.cache().shiftable(1, 1), "the oldest tokens cannot leave a cache of policy fastkv");
    tiny_spec windows;
    windows.arch = "gemma3";
    windows.n_layer = 4;
    CHECK_ERROR(session(tiny_model(windows), fastkv_params(32)), "the cache fastkv keeps no positions of its tokens");
    tiny_spec one_layer;
    one_layer.n_layer = 1;
    CHECK_ERROR(session(tiny_model(one_layer), fastkv_params(32)), "behind layer 0 there must be others");
    session_params last = fastkv_params(32);
    last.kv.tsp_layer = 3;
    CHECK_ERROR(session(m, last), "tsp_layer: behind layer 3 there must be others; the model has 4");
}

TEST(sequences_share_steps_where_their_prompts_do_not) {
    const std::shared_ptr<const model> m = four_layers();
    const auto e = std::make_shared<engine>(m, 2);
    std::vector<std::unique_ptr<session>> together;
    std::vector<std::unique_ptr<session>> alone;
    const std::vector<std::string> policies = {"fastkv", "livekv", "fastkv", "f16"};
    for (const std::string & policy : policies) {
        together.push_back(std::make_unique<session>(e, params_of(policy, 32)));
        alone.push_back(std::make_unique<session>(e, params_of(policy, 32)));
    }
    std::vector<std::vector<int32_t>> prompts;
    for (size_t i = 0; i < policies.size(); ++i) {
        prompts.push_back(some_tokens(40 + 30 * static_cast<int>(i), static_cast<uint32_t>(i + 5)));
    }
    for (int round = 0; round < 4; ++round) {  // a prompt each, then a token each
        std::vector<session_step> batch;
        for (size_t i = 0; i < policies.size(); ++i) {
            prompts[i].resize(round == 0 ? prompts[i].size() : 1, 5 + round);
            batch.push_back({together[i].get(),
                             prompts[i],
                             static_cast<int64_t>(prompts[i].size()) - 1,
                             round == 0 ? token_origin::prompt : token_origin::generated,
                             {}});
        }
        step(*e, batch);
        for (size_t i = 0; i < policies.size(); ++i) {
            const auto expected = round == 0 ? alone[i]->prefill(prompts[i]) : alone[i]->append(prompts[i][0]);
            const auto made = together[i]->last_logits();
            CHECK(nmse({made.begin(), made.end()}, {expected.begin(), expected.end()}) < 1e-6);
        }
    }
}

TEST_MAIN
