// Sequences of policy finch: forks, trims, batches, passes that fail, and what is refused.

#include <limits>

#include "error.h"
#include "failing_allocations.h"
#include "finch_sessions.h"
#include "session/batch.h"

using namespace finch_sessions;

namespace {

const std::vector<int32_t> question = some_tokens(6, 11);

}  // namespace

TEST(a_fork_goes_on_bit_for_bit) {
    const std::shared_ptr<const model> m = three_layers();
    session s(m, finch_params(32, 40));
    s.prefill(some_tokens(100), question);
    const auto copy = s.fork();
    CHECK(held(s) == held(*copy));
    CHECK(*s.cache().condensed() == *copy->cache().condensed());
    for (const int32_t token : some_tokens(40, 9)) {
        CHECK(same_bits(s.append(token), copy->append(token)));
    }
}

TEST(a_trim_behind_the_context_is_exact_and_one_into_it_is_refused) {
    const std::shared_ptr<const model> m = three_layers();
    const std::vector<int32_t> context = some_tokens(100);
    const std::vector<int32_t> more = some_tokens(50, 9);
    session s(m, finch_params(32, 40));
    session other(m, finch_params(32, 40));
    const std::vector<float> expected = asked(s, context, question);
    s.trim(106);
    asked(other, context, question);
    for (size_t i = 0; i < more.size(); ++i) {
        s.append(more[i]);
        if (i < 10) {
            other.append(more[i]);
        }
    }
    s.trim(116);
    CHECK(nmse(appended(s, 5), appended(other, 5)) < 1e-6);
    for (const int64_t n : {1, 64, 99}) {
        CHECK_EQ(s.exact_trim(n), 0);
        CHECK_ERROR(s.trim(n),
                    "of a context that was read for a question (policy finch) a trim forgets all 100 tokens "
                    "or none; " +
                        std::to_string(n) + " is within it");
    }
    CHECK_EQ(s.n_tokens(), 117);
    s.trim(100);  // the question is asked anew
    CHECK(nmse(last_logits(s, question), expected) < 1e-6);
    s.trim(0);
    CHECK(*s.cache().condensed() == kv_finch_context());
    CHECK(same_bits(s.prefill(context, question), expected));
}

TEST(text_after_the_question_stays_whole) {
    const std::shared_ptr<const model> m = three_layers();
    session s(m, finch_params(32, 40));
    session one_by_one(m, finch_params(32, 40));
    s.prefill(some_tokens(100), question);
    one_by_one.prefill(some_tokens(100), question);
    const std::vector<int32_t> more = some_tokens(90, 9);
    const std::vector<float> at_once = last_logits(s, more);
    std::vector<float> last;
    for (const int32_t token : more) {
        last = appended(one_by_one, token);
    }
    CHECK(nmse(at_once, last) < 1e-6);
    const kv_finch_context made = *s.cache().condensed();
    CHECK_EQ(made.n_tokens, 100);
}

TEST(a_prefill_that_is_stopped_keeps_what_it_read) {
    const std::shared_ptr<const model> m = three_layers();
    session s(m, finch_params(32, 40));
    std::vector<int64_t> seen;
    CHECK(s.prefill(some_tokens(100), question, [&](int64_t n) {
               seen.push_back(n);
               return n < 64;
           }).empty());
    CHECK(seen == (std::vector<int64_t>{32, 64}));
    CHECK_EQ(s.n_tokens(), 64);
    CHECK_ERROR(s.prefill(some_tokens(100), question),
                "a context that is read for a question comes first, not behind 64 tokens");
    s.reset();
    seen.clear();
    s.prefill(some_tokens(100), question, [&](int64_t n) {
        seen.push_back(n);
        return true;
    });
    CHECK(seen == (std::vector<int64_t>{32, 64, 96, 100, 106}));
}

TEST(a_pass_that_fails_leaves_what_was) {
    const std::shared_ptr<const model> m = three_layers();
    const std::vector<int32_t> context = some_tokens(90);
    session untouched(m, finch_params(32, 40));
    const std::vector<float> expected = asked(untouched, context, question);
    if (!allocations::can_fail) {
        SKIP("a sanitizer has an allocator of its own");
    }
    int n_failed = 0;
    for (int64_t at = 0; at < 3000; at += 7) {
        session s(m, finch_params(32, 40));
        if (!allocations::fails_at(at, [&] { s.prefill(context, question); })) {
            break;
        }
        ++n_failed;
        const int64_t n = s.n_tokens();
        const kv_finch_context made = *s.cache().condensed();
        CHECK(n == made.n_tokens);
        CHECK(n % 32 == 0 || n == 90);
        s.reset();
        CHECK(nmse(asked(s, context, question), expected) < 1e-6);
    }
    CHECK(n_failed > 10);
}

TEST(a_bad_number_is_named_by_its_place) {
    for (const std::string what : {"q", "k", "v"}) {
        for (const std::string layer : {"0", "2"}) {  // what the last one's queries are attended with is not computed
            tiny_spec spec;
            spec.n_layer = 3;
            spec.edit_values = [&](const std::string & name, std::vector<float> & values) {
                if (name == "blk." + layer + ".attn_" + what + ".weight") {
                    values[5] = std::numeric_limits<float>::infinity();
                }
            };
            session s(tiny_model(spec), finch_params(32, 40));
            CHECK_ERROR(s.prefill(some_tokens(100), question), "layer " + layer);
            CHECK_EQ(s.n_tokens(), 0);
        }
    }
}

TEST(weights_that_are_no_numbers_choose_nothing) {
    tiny_spec spec;
    spec.n_layer = 3;
    spec.edit_values = [](const std::string & name, std::vector<float> & values) {
        if (name == "blk.2.attn_q.weight") {  // finite queries whose products with keys are not
            std::ranges::fill(values, 1e37f);
        }
    };
    session s(tiny_model(spec), finch_params(32, 40));
    CHECK_ERROR(s.prefill(some_tokens(100), question), "the weights that the question gives to the context are not");
    CHECK_EQ(s.n_tokens(), 0);
}

TEST(what_it_cannot_do_is_refused) {
    const std::shared_ptr<const model> m = three_layers();
    session s(m, finch_params(32, 40));
    const std::vector<int32_t> tokens = some_tokens(20);
    const std::string lacking = "policy finch reads a context for a question, and there is none";
    CHECK_ERROR(s.prefill(tokens), lacking);
    CHECK_ERROR(s.eval(tokens, 0, [](int64_t, int64_t, std::span<const float>) {}), lacking);
    CHECK_ERROR(s.prefill({}, question), "there are no tokens of the context");
    CHECK_ERROR(s.prefill(tokens, std::span<const int32_t>()), "there are no tokens of the question");
    CHECK_ERROR(s.prefill(tokens, std::vector<int32_t>{1, 999}), "token id 999 is not in the model's vocabulary");
    CHECK_ERROR(s.prefill(some_tokens(396), question), "the context holds 400 tokens, 402 are needed");
    CHECK_ERROR(s.prefill(tokens, some_tokens(40)),
                "target_tokens: 40 leave no room for a context beside the question, which has 40 tokens");
    CHECK_ERROR(s.prefill(some_tokens(150), some_tokens(38)),
                "target_tokens: 40 beside a question of 38 tokens keep one of 75 tokens of the context, which is none "
                "of a chunk of 32");
    CHECK_EQ(s.n_tokens(), 0);
    s.prefill(tokens, question);
    CHECK_ERROR(s.save("/tmp/none.kv"), "only livekv, kvstream, guided and kivi caches can be saved");
    CHECK_ERROR(s.cache().dump(0), "holds is of other tokens in each layer");
    CHECK_ERROR(s.cache().shiftable(1, 1), "the oldest tokens cannot leave a cache of policy finch");
    session livekv(m, params_of("livekv", 32));
    CHECK_ERROR(livekv.prefill(tokens, question), "a question is for a cache of policy finch, not livekv");
    const auto cache = livekv.get_engine()->make_cache(params_of("f16", 32).kv, 100);
    batch_item one = {cache.get(), tokens, token_origin::prompt, false, 0, nullptr, 20};
    one.question = question;
    CHECK_ERROR(livekv.get_engine()->step({&one, 1}),
                "a question comes with a context, at the beginning of a sequence of policy finch");
    tiny_spec windows;
    windows.arch = "gemma3";
    windows.n_layer = 4;
    CHECK_ERROR(session(tiny_model(windows), finch_params(32, 40)), "the cache finch keeps no positions of its tokens");
}

TEST(sequences_share_passes_with_those_that_condense) {
    const std::shared_ptr<const model> m = three_layers();
    const auto e = std::make_shared<engine>(m, 2);
    session together(e, finch_params(32, 40));
    session second(e, finch_params(32, 20));
    session other(e, params_of("livekv", 32));
    session f16(e, params_of("f16", 32));
    other.prefill(some_tokens(40));
    f16.prefill(some_tokens(40));
    const std::vector<int32_t> context = some_tokens(70);
    for (size_t done = 0; done < 70; done += 32) {
        const std::span<const int32_t> chunk = std::span(context).subspan(done, std::min<size_t>(32, 70 - done));
        const std::vector<int32_t> next = {5};
        session::share shares[] = {{&together, chunk, 0, token_origin::prompt, false, 70, question},
                                   {&other, next, 1, token_origin::generated, false, 0},
                                   {&second, chunk, 0, token_origin::prompt, false, 70, question},
                                   {&f16, next, 1, token_origin::generated, false, 0}};
        session::pass(*e, shares);
    }
    session alone(m, finch_params(32, 40));
    session second_alone(m, finch_params(32, 20));
    CHECK(nmse(last_logits(together, question), asked(alone, context, question)) < 1e-6);
    CHECK(nmse(last_logits(second, question), asked(second_alone, context, question)) < 1e-6);
    session other_alone(m, params_of("livekv", 32));
    other_alone.prefill(some_tokens(40));
    for (int i = 0; i < 3; ++i) {
        other_alone.append(5);
    }
    const auto made = other.last_logits();
    const auto expected = other_alone.last_logits();
    CHECK(nmse({made.begin(), made.end()}, {expected.begin(), expected.end()}) < 1e-6);
}

TEST(a_text_that_begins_with_generated_tokens_stays_whole) {
    const std::shared_ptr<const model> m = three_layers();
    session s(m, finch_params(32, 40));
    session f16(m, params_of("f16", 32));
    for (const int32_t token : some_tokens(50)) {
        CHECK(nmse(appended(s, token), appended(f16, token)) < 1e-4);
    }
    CHECK_ERROR(s.prefill(some_tokens(20), question), "comes first, not behind 50 tokens");
}

TEST_MAIN
