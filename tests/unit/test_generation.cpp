// Text from a session: when it ends, what is kept, and where it goes on.

#include "check.h"
#include "session/generate.h"
#include "tiny_sequences.h"
#include "xxh64.h"

using namespace livekv;
using namespace tiny_sequences;

TEST(generation_stops_for_each_reason) {
    const auto m = tiny_model();
    const auto run = [&](int64_t n_predict, int64_t n_ctx, int stop_after) {
        session s(m, params_of("f16", 32, n_ctx));
        generate_params p;
        p.n_predict = n_predict;
        p.ignore_eos = true;
        p.sampling.temperature = 0.0;
        int n_pieces = 0;
        generate_callbacks callbacks;
        callbacks.interrupted = [&] { return stop_after >= 0 && ++n_pieces > stop_after; };
        return generate(s, some_tokens(20), p, callbacks);
    };
    const generate_result limited = run(7, 64, -1);
    CHECK_EQ(limited.n_generated, 7);
    CHECK(limited.reason == stop_reason::n_predict);
    const generate_result full = run(-1, 30, -1);
    CHECK_EQ(full.n_generated, 11);  // 10 more fit, and the last one needs no place
    CHECK(full.reason == stop_reason::context_full);
    CHECK(run(-1, 64, 3).reason == stop_reason::interrupted);
    CHECK_EQ(run(7, 64, -1).logits_hash, limited.logits_hash);
    CHECK(run(6, 64, -1).logits_hash != limited.logits_hash);
}

TEST(the_hash_is_that_of_the_last_logits_and_known_when_the_text_has_ended) {
    const auto m = tiny_model();
    const auto hash_of = [](std::span<const float> logits) {
        xxh64 hash;
        hash.update({reinterpret_cast<const uint8_t *>(logits.data()), logits.size_bytes()});
        return hash.digest();
    };
    for (const int64_t n_predict : {0, 1, 5}) {
        IN("n_predict=", n_predict);
        session s(m, params_of("f16", 32));
        generate_params p;
        p.n_predict = n_predict;
        p.ignore_eos = true;
        generation g(s, some_tokens(20), p);
        while (!g.ended()) {
            CHECK(!g.result().logits_hash);
            g.next();
        }
        CHECK(g.result().logits_hash == hash_of(s.last_logits()));
    }
    session s(m, params_of("f16", 32));
    generation g(s, some_tokens(20), {});
    g.next();
    g.interrupt();
    CHECK(g.result().logits_hash == hash_of(s.last_logits()));
}

TEST(what_a_run_did_not_do_has_no_speed) {
    const auto m = tiny_model();
    const auto run = [&](int64_t n_predict, bool resume) {
        session s(m, params_of("f16", 32));
        generate_params p;
        p.n_predict = n_predict;
        p.ignore_eos = true;
        if (resume) {
            s.prefill(some_tokens(20));
        }
        return generate(s, resume ? std::vector<int32_t>() : some_tokens(20), p, {});
    };
    const generate_result both = run(2, false);
    CHECK(both.ttft_s && both.prefill_tps() && both.decode_tps());
    CHECK(both.prefill_tps() == 20.0 / both.prefill_s);
    CHECK(both.decode_tps() == 1.0 / both.decode_s);
    const generate_result one = run(1, false);
    CHECK(one.ttft_s && one.prefill_tps() && !one.decode_tps());
    const generate_result none = run(0, false);
    CHECK(!none.ttft_s && none.prefill_tps() && !none.decode_tps());
    const generate_result resumed = run(2, true);
    CHECK(resumed.ttft_s && !resumed.prefill_tps() && resumed.decode_tps());
}

TEST(an_interrupted_prefill_keeps_whole_chunks) {
    const auto m = tiny_model();
    session s(m, params_of("f16", 32));
    generate_callbacks callbacks;
    callbacks.on_prefill = [](int64_t n_done) { return n_done < 64; };
    const generate_result r = generate(s, some_tokens(200), {}, callbacks);
    CHECK(r.reason == stop_reason::interrupted);
    CHECK_EQ(r.n_prompt, 64);
    CHECK_EQ(r.n_generated, 0);
    CHECK(!r.ttft_s && !r.logits_hash && !r.decode_tps());
}

TEST(steps_say_what_one_call_says) {
    const auto m = tiny_model();
    generate_params p;
    p.n_predict = 30;
    p.ignore_eos = true;
    p.sampling.seed = 9;
    std::string said;
    generate_callbacks callbacks;
    callbacks.on_text = [&](std::string_view piece) {
        said += piece;
        return true;
    };
    session whole(m, params_of("f16", 32));
    const generate_result r = generate(whole, some_tokens(40), p, callbacks);
    session stepped(m, params_of("f16", 32));
    generation g(stepped, some_tokens(40), p);
    std::string text;
    while (!g.ended()) {
        text += g.next();
    }
    CHECK_EQ(text, said);
    CHECK_EQ(g.result().logits_hash, r.logits_hash);
    CHECK_EQ(g.result().last_token, r.last_token);
    CHECK_EQ(g.result().n_prompt, 40);
    CHECK(g.result().reason == stop_reason::n_predict);
    CHECK_EQ(stepped.n_tokens(), whole.n_tokens());
}

TEST(a_fork_goes_on_from_the_last_logits_it_was_given) {
    const auto m = tiny_model();
    session s(m, params_of("livekv", 32));
    const std::vector<float> before = last_logits(s, some_tokens(50));
    const auto fork = s.fork();
    last_logits(s, some_tokens(9));  // the fork's are its own
    CHECK(same_bits({fork->last_logits().begin(), fork->last_logits().end()}, before));
    const auto second = fork->fork();
    CHECK(same_bits({second->last_logits().begin(), second->last_logits().end()}, before));
    fork->trim(20);
    CHECK(fork->last_logits().empty());
    CHECK(fork->fork()->last_logits().empty());
}

TEST_MAIN
