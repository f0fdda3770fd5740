#include <algorithm>
#include <functional>

#include "error.h"
#include "policy/kv_option_table.h"
#include "saved_sequence.h"

using namespace livekv;
using namespace kv_saved;

TEST(a_restored_session_goes_on_bit_for_bit) {
    struct state {
        const char * name;
        std::function<void(kv_options &)> set;
        std::function<void(session &)> run;
    };
    const auto prefill = [](int n) { return [n](session & s) { s.prefill(some_tokens(n)); }; };
    const auto nothing = [](kv_options &) {};
    const std::vector<state> states = {
        {"as shipped", [](kv_options & o) { o = kv_options(); }, prefill(700)},
        {"as published",
         [](kv_options & o) {
             apply_kv_preset("reference", o);
             o.chunk_size = 64;
         },
         prefill(300)},
        {"one token", nothing, prefill(1)},
        {"in the first chunk", nothing, prefill(30)},
        {"within warm-up", [](kv_options & o) { o.warmup_chunks = 4; }, prefill(150)},
        {"warm-up kept",
         [](kv_options & o) {
             o.warmup_keep = true;
             o.warmup_chunks = 2;
         },
         prefill(200)},
        {"tail partly full", nothing, prefill(150)},
        {"at a chunk's end", nothing, prefill(128)},
        {"one past a chunk's end", nothing, prefill(129)},
        {"trimmed inside a sealed chunk", nothing,
         [](session & s) {
             s.prefill(some_tokens(200));
             s.trim(100);
         }},
        {"trimmed inside the first chunk", nothing,
         [](session & s) {
             s.prefill(some_tokens(200));
             s.trim(2);
         }},
        {"trimmed and grown again", nothing,
         [](session & s) {
             s.prefill(some_tokens(200));
             s.trim(70);
             s.prefill(some_tokens(90, 8));
         }},
        {"trimmed inside the tail", nothing,
         [](session & s) {
             s.prefill(some_tokens(150));
             s.trim(140);
         }},
        {"half the layers bypassed, f16",
         [](kv_options & o) {
             o.bypass_layers = 2;
             o.bypass_type = kv_bypass::f16;
         },
         prefill(150)},
        {"no bypass layers", [](kv_options & o) { o.bypass_layers = 0; }, prefill(150)},
        {"generated text not sealed", [](kv_options & o) { o.seal_decode = false; },
         [](session & s) {
             s.prefill(some_tokens(100));
             decode(s, 80, 5);
         }},
        {"rotated", [](kv_options & o) { o.rotate = kv_rotate::kv; }, prefill(150)},
        {"no sinks, no outliers",
         [](kv_options & o) {
             o.sink_tokens = 0;
             o.outlier_ratio = 0.0;
         },
         prefill(150)},
        {"zero points, groups of 32, odd numbers",
         [](kv_options & o) {
             o.scale_method = kv_method::scale::ema_clipped;
             o.zero_point = true;
             o.key_group = 32;
             o.bits = {3, 2};
             o.outlier_ratio = 0.0312345678901234567;
             o.ema_alpha = 1.0 / 3.0;
         },
         prefill(150)},
        {"the running range",
         [](kv_options & o) {
             o.scale_method = kv_method::scale::ema_minmax;
             o.bits = {8, 5};
         },
         prefill(150)},
    };
    const temporary_file file(".kv");
    for (const state & state : states) {
        session_params p = params_of(1000);
        state.set(p.kv);
        p.n_threads = 2;
        session s(four_layers(), p);
        state.run(s);
        s.save(file.path());
        session_params other = params_of(1000);  // no cache option of it may matter
        other.n_threads = 2;
        other.kv.chunk_size = 96;
        session restored(four_layers(), other);
        restored.load(file.path());
        CHECK_EQ(restored.params().kv.ema_alpha, p.kv.ema_alpha);  // to the last digit, like all options
        CHECK_EQ(restored.params().kv.outlier_ratio, p.kv.outlier_ratio);
        const bool logits = same_bits(restored.last_logits(), s.last_logits()) && restored.n_tokens() == s.n_tokens();
        if (!logits || !go_on_alike(s, restored)) {
            check::report(__FILE__, __LINE__, std::string(state.name) + ": the restored session differs");
        }
    }
}

TEST(a_saved_sequence_is_saved_again_as_the_same_bytes) {
    const temporary_file file(".kv");
    const std::vector<uint8_t> first = saved_file(four_layers());
    write_bytes(file.path(), first);
    session s(four_layers(), params_of());
    s.load(file.path());
    s.save(file.path());
    CHECK(read_bytes(file.path()) == first);
}

TEST(a_session_remembers_its_tokens) {
    const std::vector<int32_t> tokens = some_tokens(100);
    session s(four_layers(), params_of());
    s.prefill(tokens);
    CHECK(std::ranges::equal(s.tokens(), tokens));
    CHECK_EQ(s.last_logits().size(), 259u);
    const auto copy = s.fork();
    CHECK(std::ranges::equal(copy->tokens(), tokens));
    CHECK_ERROR(s.prefill(std::vector<int32_t>{5, 700}), "token id 700");
    CHECK(std::ranges::equal(s.tokens(), tokens));
    CHECK_EQ(s.last_logits().size(), 259u);  // nothing has changed
    s.trim(40);
    CHECK(std::ranges::equal(s.tokens(), std::span(tokens).first(40)));
    s.eval(tokens, 50, [](int64_t, int64_t, std::span<const float>) {});
    CHECK_EQ(s.tokens().size(), 140u);
    CHECK_EQ(s.last_logits().size(), 259u);
    s.reset();
    CHECK(s.tokens().empty());
}

TEST_MAIN
