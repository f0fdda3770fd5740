// The livekv cache in a session on tiny models: the same result whatever the threads, forks and trims.

#include <cmath>
#include <cstring>

#include "check.h"
#include "error.h"
#include "session/generate.h"
#include "tiny_sequences.h"

using namespace livekv;
using namespace tiny_sequences;

namespace {

constexpr int64_t chunk = 32;

session_params params_of(int64_t n_ctx = 400) {
    return tiny_sequences::params_of("livekv", chunk, n_ctx);
}

}  // namespace

TEST(results_do_not_depend_on_threads) {
    const auto m = tiny_model();
    for (const auto scale : {kv_method::scale::ema_absmax, kv_method::scale::ema_clipped}) {
        std::vector<float> expected;
        for (const int32_t n_threads : {1, 2, 4}) {
            session_params p = params_of(1600);
            p.n_threads = n_threads;
            p.kv.scale_method = scale;
            session s(m, p);
            const std::vector<float> logits =
                decode(s, last_logits(s, some_tokens(1450)), 40);  // long enough to be cut into spans
            expected = n_threads == 1 ? logits : expected;
            CHECK(same_bits(logits, expected));
        }
    }
}

TEST(more_bits_come_closer_to_the_exact_cache) {
    const auto m = tiny_model();
    const std::vector<int32_t> tokens = some_tokens(200);
    session_params exact = params_of();
    exact.kv.policy = "f16";
    exact.kv.chunk_size = 256;                              // ggml sums values in f16 for fewer than 64 queries
    const auto logits_of = [&](const session_params & p) {  // of the last hundred tokens
        session s(m, p);
        std::vector<float> all;
        s.eval(tokens, 100,
               [&](int64_t, int64_t, std::span<const float> rows) { all.insert(all.end(), rows.begin(), rows.end()); });
        return all;
    };
    const std::vector<float> expected = logits_of(exact);
    const auto difference = [&](const std::function<void(kv_options &)> & edit) {
        session_params p = params_of();
        p.kv.scale_method = kv_method::scale::range;
        edit(p.kv);
        return nmse(logits_of(p), expected);
    };
    double last = 1.0;
    for (const int64_t bits : {2, 3, 4, 5, 8}) {
        const double d = difference([&](kv_options & o) { o.bits = {bits}; });
        std::printf("  %d bits: NMSE of the logits %.1e\n", static_cast<int>(bits), d);
        CHECK(d < 0.6 * last);
        last = d;
    }
    CHECK(last < 1e-4);
    // Bypass layers of f16 are exact, sinks and all; softmax weights and products are rounded in other places.
    CHECK(difference([](kv_options & o) {
              o.bypass_layers = 2;
              o.bypass_type = kv_bypass::f16;
          }) < 1e-6);
    CHECK(difference([](kv_options & o) { o.bypass_layers = 2; }) < 1e-4);
    CHECK(difference([](kv_options & o) {
              o.warmup_chunks = 100;
              o.warmup_keep = true;
              o.bits = {2, 8};
          }) < 1e-4);
}

TEST(decoded_text_is_stored_as_prefilled_text_is) {
    const auto m = tiny_model();
    const std::vector<int32_t> tokens = some_tokens(150);
    session whole(m, params_of());
    session by_one(m, params_of());
    const std::vector<float> expected = last_logits(whole, tokens);
    std::vector<float> got;
    for (const int32_t token : tokens) {
        got = last_logits(by_one, {token});
    }
    // A chunk attends to itself exactly when it is prefilled, and when it is decoded too.
    CHECK(nmse(got, expected) < 1e-3);
    CHECK_EQ(by_one.cache().report().n_sealed, whole.cache().report().n_sealed);
    CHECK_EQ(whole.cache().report().n_sealed, 2 * 2 * 64 * 4 * chunk);
}

TEST(unsealed_generated_text_stays_in_sixteen_bits) {
    const auto m = tiny_model();
    session_params p = params_of();
    p.kv.seal_decode = false;
    p.kv.warmup_chunks = 0;
    session s(m, p);
    std::vector<float> logits = last_logits(s, some_tokens(50));
    const int64_t sealed = s.cache().report().n_sealed;
    CHECK_EQ(sealed, 2 * 2 * 64 * 50);  // the prompt's rest too, though it fills no chunk
    CHECK_EQ(s.cache().report().bytes.warm_up, 0u);
    decode(s, logits, 100);
    CHECK_EQ(s.cache().report().n_sealed, sealed);
    CHECK_EQ(s.cache().report().bytes.warm_up, 2u * 2 * 64 * 2 * 96);
    CHECK_EQ(s.n_tokens(), 150);
}

TEST(bytes_grow_with_the_tokens_and_not_with_the_context) {
    const auto m = tiny_model();
    session small(m, params_of(128));
    session large(m, params_of(10000000));
    CHECK(same_bits(last_logits(small, some_tokens(100)), last_logits(large, some_tokens(100))));
    CHECK_EQ(small.cache().bytes(), large.cache().bytes());
    std::vector<size_t> bytes;
    for (int i = 0; i < 6; ++i) {
        last_logits(large, some_tokens(i == 0 ? 60 : 64));  // 160 tokens, then two chunks more each time
        bytes.push_back(large.cache().bytes());
    }
    for (size_t i = 2; i < bytes.size(); ++i) {
        CHECK_EQ(bytes[i] - bytes[i - 1], bytes[1] - bytes[0]);
    }
    CHECK_ERROR(last_logits(small, some_tokens(40)), "the context holds 128 tokens");
}

TEST(parts_of_the_report_sum_to_all_bytes) {
    const auto m = tiny_model();
    for (const kv_bypass bypass : {kv_bypass::f16, kv_bypass::q8_0}) {
        session_params p = params_of();
        p.kv.bypass_layers = 1;
        p.kv.bypass_type = bypass;
        p.kv.outlier_ratio = 0.005;
        session s(m, p);
        last_logits(s, some_tokens(150));
        const kv_report::parts b = s.cache().report().bytes;
        CHECK_EQ(b.codes + b.scales + b.outliers + b.sinks + b.warm_up + b.bypass + b.tail + b.statistics + b.padding,
                 s.cache().bytes());
        CHECK(b.codes > 0 && b.scales > 0 && b.outliers > 0 && b.sinks > 0 && b.bypass > 0 && b.tail > 0);
        CHECK_EQ(b.warm_up, 0u);
        const double f16_layer = 2.0 * 2 * 64 * 128;
        CHECK(static_cast<double>(b.bypass) >= (bypass == kv_bypass::f16 ? 1.0 : 0.51) * f16_layer);
        CHECK(static_cast<double>(b.bypass) < (bypass == kv_bypass::f16 ? 1.05 : 0.64) * f16_layer);
    }
}

TEST(a_reset_session_is_a_new_one) {
    const auto m = tiny_model();
    session used(m, params_of());
    decode(used, last_logits(used, some_tokens(140, 9)), 20);
    used.reset();
    CHECK_EQ(used.n_tokens(), 0);
    session fresh(m, params_of());
    CHECK_EQ(used.cache().bytes(), fresh.cache().bytes());
    CHECK(same_bits(decode(used, last_logits(used, some_tokens(150)), 20),
                    decode(fresh, last_logits(fresh, some_tokens(150)), 20)));
    CHECK_EQ(used.cache().bytes(), fresh.cache().bytes());
}

TEST(a_trimmed_session_goes_on) {
    const auto m = tiny_model();
    const std::vector<int32_t> head = some_tokens(100);
    const std::vector<int32_t> rest = some_tokens(30, 21);
    session fresh(m, params_of());
    last_logits(fresh, head);
    const std::vector<float> expected = last_logits(fresh, rest);
    session s(m, params_of());
    last_logits(s, head);
    last_logits(s, some_tokens(20, 77));  // in the tail
    s.trim(100);
    CHECK(same_bits(last_logits(s, rest), expected));
    for (const int64_t n :
         {1, 3, 4, 31, 32, 33, 64, 90}) {  // in blocks: later logits are near those of a fresh session
        session trimmed(m, params_of());
        last_logits(trimmed, head);
        trimmed.trim(n);
        session direct(m, params_of());
        last_logits(direct, {head.begin(), head.begin() + n});
        const double d = nmse(last_logits(trimmed, rest), last_logits(direct, rest));
        if (!(d < 0.02)) {
            check::report(__FILE__, __LINE__, "trimmed to " + std::to_string(n) + ": NMSE " + std::to_string(d));
        }
    }
}

TEST(forked_sessions_do_not_touch_each_other) {
    const auto m = tiny_model();
    for (const int n : {20, 40, 90}) {
        session alone(m, params_of());
        const std::vector<float> expected = decode(alone, last_logits(alone, some_tokens(n)), 90);
        session other(m, params_of());
        last_logits(other, some_tokens(n));
        const std::vector<float> expected_child = last_logits(other, some_tokens(70, 5));
        session parent(m, params_of());
        const std::vector<float> logits = last_logits(parent, some_tokens(n));
        const std::unique_ptr<session> child = parent.fork();
        CHECK(same_bits(last_logits(*child, some_tokens(70, 5)), expected_child));
        child->trim(10);
        last_logits(*child, some_tokens(50, 6));
        CHECK(same_bits(decode(parent, logits, 90), expected));
        CHECK_EQ(child->n_tokens(), 60);
    }
}

TEST_MAIN
