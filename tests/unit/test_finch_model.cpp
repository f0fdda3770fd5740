// Policy finch in a small model: its logits are those of a double-precision reference, and its layers keep what they
// should.

#include "finch_reference.h"
#include "finch_sessions.h"

using namespace finch_sessions;

namespace {

std::vector<float> floats(const finch_reference::row & x) {
    return {x.begin(), x.end()};
}

void compare(const std::shared_ptr<const model> & m, const session_params & p, int n, int n_question, int n_after) {
    IN("n=", n, " question=", n_question, " chunk=", p.kv.chunk_size, " target=", p.kv.target_tokens,
       " normalize=", p.kv.normalize);
    session s(m, p);
    finch_reference::sequence reference(*m, p.kv.finch());
    const std::vector<int32_t> context = some_tokens(n);
    const std::vector<int32_t> question = some_tokens(n_question, 11);
    CHECK(nmse(asked(s, context, question), floats(reference.read(context, question, p.kv.chunk_size))) < 1e-6);
    const kv_finch_context made = *s.cache().condensed();
    CHECK_EQ(made.n_tokens, n);
    CHECK_EQ(made.n_question, n_question);
    CHECK_EQ(made.n_kept, static_cast<int64_t>(reference.kept_tokens.front().size()));
    CHECK(made.n_kept + n_question <= p.kv.target_tokens);
    for (const int32_t token : some_tokens(n_after, 9)) {
        CHECK(nmse(appended(s, token), floats(reference.append(token))) < 1e-6);
    }
    CHECK_EQ(s.n_tokens(), n + n_question + n_after);
}

// The last logits of a context that s has room for, which f16 reads whole.
std::vector<float> asked_as_f16(session & s, session & f16) {
    std::vector<int32_t> all = some_tokens(100);
    const std::vector<int32_t> question = some_tokens(9, 11);
    const std::vector<float> made = asked(s, all, question);
    all.insert(all.end(), question.begin(), question.end());
    CHECK(nmse(made, last_logits(f16, all)) < 1e-4);  // keys are rounded before RoPE, there after it
    return made;
}

}  // namespace

TEST(logits_are_those_of_the_reference) {
    const std::shared_ptr<const model> m = three_layers();
    for (const bool normalize : {true, false}) {
        for (const int n : {1, 3, 32, 33, 90, 150}) {  // one chunk, several, and last ones of which nothing more stays
            for (const int n_question : {1, 7}) {
                for (const int64_t chunk_size : {32, 64}) {
                    for (const int64_t target : {24, 60, 300}) {  // the last: all of them are kept
                        compare(m, finch_params(chunk_size, target, normalize), n, n_question, 3);
                    }
                }
            }
        }
    }
}

TEST(what_follows_fills_chunks_of_its_own) {
    const std::shared_ptr<const model> m = three_layers();
    compare(m, finch_params(32, 40), 100, 5, 70);
    compare(m, finch_params(32, 120), 100, 50, 3);  // the question is longer than a chunk
}

TEST(of_tokens_looked_at_alike_the_first_are_kept) {
    const std::shared_ptr<const model> m = three_layers(0.0f);
    for (const bool normalize : {true, false}) {
        compare(m, finch_params(32, 30, normalize), 100, 5, 3);
    }
    session s(m, finch_params(32, 30));
    session first(m, finch_params(32, 300));
    asked(s, some_tokens(32), some_tokens(20, 11));  // one of four
    asked(first, some_tokens(8), some_tokens(20, 11));
    // Of the first layer: later ones' rows have seen the others.
    const page & kept = *layers_of(s).front().chunks.front().v.bytes;
    const page & expected = *layers_of(first).front().chunks.front().v.bytes;
    CHECK_EQ(kept.bytes(), expected.bytes());
    CHECK(std::equal(kept.data(), kept.data() + kept.bytes(), expected.data()));
}

TEST(a_target_beyond_the_context_keeps_all) {
    const std::shared_ptr<const model> m = three_layers();
    session s(m, finch_params(32, 300));
    session f16(m, params_of("f16", 32));
    const std::vector<float> made = asked_as_f16(s, f16);
    CHECK(nmse(decode(s, made, 10), decode(f16, made, 10)) < 1e-4);
}

TEST(pairs_that_are_halves_apart_are_turned_too) {
    const std::shared_ptr<const model> m = three_layers(2.0f, "qwen2");
    session s(m, finch_params(32, 300));
    session f16(m, params_of("f16", 32));
    const std::vector<float> made = asked_as_f16(s, f16);
    session fewer(m, finch_params(32, 40));
    CHECK(nmse(asked(fewer, some_tokens(100), some_tokens(9, 11)), made) > 1e-4);  // something is gone
}

TEST(memory_is_what_is_kept) {
    const std::shared_ptr<const model> m = three_layers();
    session s(m, finch_params(64, 58));
    s.prefill(some_tokens(250), some_tokens(8, 11));  // of 5 tokens one: 12 of 64, three times, and 11 of 58
    const kv_report report = s.cache().report();
    CHECK(report.finch.has_value());
    CHECK_EQ(report.finch->factor, 5);
    CHECK_EQ(report.finch->n_kept, 47);
    const size_t a_token = 3u * 2 * 2 * 32 * 2;
    CHECK_EQ(report.bytes.total(), a_token * (47 + 64));  // and the tail's room, with the question in it
    CHECK_EQ(report.finch->peak_bytes, a_token * (36 + 47));
    for (const kv_layer & layer : layers_of(s)) {
        CHECK_EQ(layer.chunks.size(), 1u);
        CHECK_EQ(layer.n_absent(), 250 - 47);
    }
}

TEST_MAIN
