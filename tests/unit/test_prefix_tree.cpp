// Prompts that begin alike are computed once, and say what they would say anyway.

#include <algorithm>
#include <chrono>
#include <functional>
#include <future>
#include <random>
#include <utility>

#include "check.h"
#include "engine/engine.h"
#include "error.h"
#include "saved_sequence.h"

using namespace livekv;
using namespace tiny_sequences;

namespace {

constexpr size_t plenty = size_t(1) << 30;

session_params small_chunks(int64_t n_ctx = 400) {
    return params_of("livekv", 32, n_ctx);
}

std::vector<int32_t> prompt_with(const std::vector<int32_t> & beginning, int n_more, uint32_t seed) {
    std::vector<int32_t> tokens = beginning;
    const std::vector<int32_t> more = some_tokens(n_more, seed);
    tokens.insert(tokens.end(), more.begin(), more.end());
    return tokens;
}

std::vector<uint8_t> saved(const session & s) {
    const temporary_file file(".kv");
    s.save(file.path());
    return kv_saved::read_bytes(file.path());
}

}  // namespace

TEST(a_shared_beginning_is_computed_once_and_texts_stay_the_same_to_the_bit) {
    const auto m = tiny_model();
    struct row {
        const char * name;
        std::function<void(kv_options &)> edit;
        int64_t n_known;  // of 300 shared tokens, in chunks of 32
    };
    const std::vector<row> rows = {
        {"as shipped", [](kv_options &) {}, 288},
        {"long warm-up", [](kv_options & o) { o.warmup_chunks = 5; }, 288},
        {"longer than what is shared", [](kv_options & o) { o.warmup_chunks = 10; }, 0},
        {"warm-up kept", [](kv_options & o) { o.warmup_keep = true; }, 288},
        {"no warm-up, a layer of 16 bits",
         [](kv_options & o) {
             o.warmup_chunks = 0;
             o.bypass_layers = 1;
             o.bypass_type = kv_bypass::f16;
         },
         288},
        {"measured errors are of a sequence's own sealing", [](kv_options & o) { o.measure_error = true; }, 0},
        {"f16", [](kv_options & o) { o = o.for_policy("f16"); }, 0},
    };
    for (const auto & [name, edit, n_known] : rows) {
        const auto remembering = std::make_shared<engine>(m, 1, plenty);
        const auto plain = std::make_shared<engine>(m, 1);
        session_params p = small_chunks();
        edit(p.kv);
        const std::vector<int32_t> beginning = some_tokens(300);
        std::vector<std::unique_ptr<session>> held;
        for (uint32_t i = 0; i < 20; ++i) {
            const std::vector<int32_t> prompt = prompt_with(beginning, 10, i + 1);
            session expected(plain, p);
            held.push_back(std::make_unique<session>(remembering, p));
            session & s = *held.back();
            const auto logits = last_logits(expected, prompt);
            if (!same_bits(last_logits(s, prompt), logits) || s.n_reused() != (i == 0 ? 0 : n_known) ||
                !same_bits(decode(s, logits, 40), decode(expected, logits, 40)) ||
                (p.kv.policy == "livekv" && saved(s) != saved(expected))) {
                check::report(__FILE__, __LINE__,
                              std::string(name) + ", prompt " + std::to_string(i) + ", " +
                                  std::to_string(s.n_reused()) + " tokens known");
            }
            if (i % 3 == 0) {
                held.pop_back();
            }
        }
    }
}

TEST(wherever_prompts_part_and_however_turns_go_on_bytes_are_those_without_the_tree) {
    const auto m = tiny_model();
    struct row {
        const char * name;
        std::function<void(kv_options &)> edit;
    };
    const auto running = [](kv_options & o) {  // scales that follow the statistics closely
        o.scale_method = kv_method::scale::ema_minmax;
        o.zero_point = false;
        o.key_group = 0;
    };
    const std::vector<row> rows = {
        {"as shipped", [](kv_options &) {}},
        {"running statistics", running},
        {"a long warm-up",
         [&](kv_options & o) {
             running(o);
             o.warmup_chunks = 4;
         }},
        {"generated text in 16 bits",
         [&](kv_options & o) {
             running(o);
             o.seal_decode = false;
         }},
        {"the same, warm-up kept",
         [&](kv_options & o) {
             running(o);
             o.seal_decode = false;
             o.warmup_keep = true;
         }},
    };
    for (const auto & [name, edit] : rows) {
        IN(name);
        const auto remembering = std::make_shared<engine>(m, 1, plenty);
        const auto plain = std::make_shared<engine>(m, 1);
        session_params p = small_chunks(600);
        edit(p.kv);
        std::mt19937 rng(11);
        std::vector<std::vector<int32_t>> known = {some_tokens(300)};
        int64_t n_reused = 0;
        for (int i = 0; i < 40; ++i) {
            IN("text ", i);
            session s(remembering, p);
            session expected(plain, p);
            const auto & earlier = known[rng() % known.size()];
            const size_t n_alike = 1 + rng() % earlier.size();
            const std::vector<int32_t> alike(earlier.begin(), earlier.begin() + static_cast<int64_t>(n_alike));
            std::vector<int32_t> prompt = prompt_with(alike, 2 + static_cast<int>(rng() % 150), rng());
            prompt.resize(std::min<size_t>(prompt.size(), 400));
            for (session * one : {&s, &expected}) {
                const auto logits = last_logits(*one, prompt);
                n_reused += one->n_reused();
                decode(*one, logits, static_cast<int>(i % 3) * 20);
                one->trim(i % 4 == 0 ? one->n_tokens() / 2 : one->n_tokens());
                one->prefill(some_tokens(40 + i, static_cast<uint32_t>(i)));
            }
            CHECK(saved(s) == saved(expected));
            known.emplace_back(s.tokens().begin(), s.tokens().end());
        }
        CHECK(n_reused > 1000);
    }
}

TEST(only_what_would_be_the_same_is_taken) {
    const auto e = std::make_shared<engine>(tiny_model(), 1, plenty);
    const std::vector<int32_t> tokens = some_tokens(200);
    session first(e, small_chunks());
    first.prefill(tokens);
    const auto n_known_to = [&](const session_params & p, std::span<const int32_t> prompt) {
        session s(e, p);
        s.prefill(prompt);
        return s.n_reused();
    };
    CHECK_EQ(n_known_to(small_chunks(), tokens), 192);
    CHECK_EQ(n_known_to(small_chunks(), std::span(tokens).first(192)), 160);  // a token is left for its logits
    CHECK_EQ(n_known_to(small_chunks(), std::span(tokens).first(193)), 192);
    CHECK_EQ(n_known_to(small_chunks(), std::span(tokens).first(64)), 0);  // 32 are within the warm-up
    session_params other = small_chunks();
    other.kv.bits = 3;
    CHECK_EQ(n_known_to(other, tokens), 0);
    std::vector<int32_t> changed = tokens;
    changed[100] ^= 1;
    CHECK_EQ(n_known_to(small_chunks(), changed), 96);
    session in_pieces(e, small_chunks());  // other passes round otherwise: not for others
    const std::vector<int32_t> fresh = some_tokens(200, 77);
    in_pieces.prefill(std::span(fresh).first(50));
    in_pieces.prefill(std::span(fresh).subspan(50));
    CHECK_EQ(n_known_to(small_chunks(), fresh), 0);
}

TEST(what_nobody_uses_leaves_within_the_budget_and_what_is_used_stays) {
    const auto m = tiny_model();
    const auto all = std::make_shared<engine>(m, 1, plenty);
    size_t one_prompt = 0;
    {
        session s(all, small_chunks());
        s.prefill(some_tokens(200));
        one_prompt = s.cache().bytes();
    }
    // A tree with room for about two of twenty prompts, of which some are in use at any time.
    const auto e = std::make_shared<engine>(m, 1, 2 * one_prompt);
    const auto plain = std::make_shared<engine>(m, 1);
    std::mt19937 rng(5);
    struct text {
        std::unique_ptr<session> s;
        std::vector<uint8_t> bytes;
    };
    std::vector<text> held;
    int64_t n_reused = 0;
    for (int i = 0; i < 120; ++i) {
        if (!held.empty() && rng() % 3 == 0) {
            const size_t who = rng() % held.size();
            CHECK(saved(*held[who].s) == held[who].bytes);
            held.erase(held.begin() + static_cast<int64_t>(who));
        }
        const uint32_t which = rng() % 20;
        const std::vector<int32_t> prompt = prompt_with(some_tokens(100, which % 4 + 1), 100, which + 1);
        held.push_back({std::make_unique<session>(e, small_chunks()), {}});
        session & s = *held.back().s;
        s.prefill(prompt);
        n_reused += s.n_reused();
        held.back().bytes = saved(s);
        if (i % 10 == 0) {
            session expected(plain, small_chunks());
            expected.prefill(prompt);
            CHECK(saved(expected) == held.back().bytes);
        }
        if (held.size() > 5) {
            held.erase(held.begin());
        }
        CHECK(e->prefix_idle_bytes() <= 2 * one_prompt);
    }
    CHECK(n_reused > 2000);
    for (const text & t : held) {
        CHECK(saved(*t.s) == t.bytes);
    }
    held.clear();
    CHECK(e->prefix_idle_bytes() > one_prompt / 2);
    CHECK(e->prefix_idle_bytes() <= 2 * one_prompt);
}

TEST(what_a_trim_leaves_unused_is_within_the_budget) {
    const auto e = std::make_shared<engine>(tiny_model(), 1, 1);
    session s(e, small_chunks());
    s.prefill(some_tokens(300));
    for (const int64_t n : {288, 192, 150, 128, 0}) {
        s.trim(n);
        CHECK(e->prefix_idle_bytes() <= 1);
    }
}

TEST(who_ends_a_session_waits_for_no_step) {
    const auto e = std::make_shared<engine>(tiny_model(), 1, 1);
    // A cache that is asked how long it is within every pass.
    struct watched_cache : chunked_cache {
        using chunked_cache::chunked_cache;
        int64_t n_tokens() const override {
            if (on_look) {
                std::exchange(on_look, {})();
            }
            return chunked_cache::n_tokens();
        }
        mutable std::function<void()> on_look;
    };
    auto ending = std::make_unique<session>(e, small_chunks());
    ending->prefill(some_tokens(200));
    watched_cache cache(small_chunks().kv, e->shape(400));
    const std::vector<int32_t> tokens = some_tokens(10, 4);
    std::future<void> ended;
    bool in_time = false;
    cache.on_look = [&] {
        ended = std::async(std::launch::async, [&] { ending.reset(); });
        in_time = ended.wait_for(std::chrono::seconds(20)) == std::future_status::ready;
    };
    const batch_item item = {&cache, tokens};
    e->step({&item, 1});
    CHECK(in_time);
    ended.get();
    CHECK_EQ(e->prefix_idle_bytes(), 0u);  // the step has done it
}

TEST(the_tree_can_be_looked_at) {
    const auto e = std::make_shared<engine>(tiny_model(), 1, plenty);
    const std::vector<int32_t> beginning = some_tokens(140);
    CHECK(e->prefix_nodes().empty());
    {
        session held(e, small_chunks());
        held.prefill(prompt_with(beginning, 60, 1));  // pieces of 64, 32, 32, and 32 and 32 of its own
        session ended(e, small_chunks());
        ended.prefill(prompt_with(beginning, 30, 2));
        for (const prefix_node & n : e->prefix_nodes()) {
            CHECK(n.in_use);
        }
    }
    const std::vector<prefix_node> nodes = e->prefix_nodes();
    std::vector<size_t> depths;
    size_t bytes = 0;
    for (const prefix_node & n : nodes) {
        CHECK_EQ(n.n_tokens, n.depth == 0 ? 64 : 32);
        CHECK(!n.in_use);
        depths.push_back(n.depth);
        bytes += n.bytes;
    }
    std::ranges::sort(depths);
    CHECK(depths == (std::vector<size_t>{0, 1, 2, 3, 3, 4}));
    CHECK_EQ(bytes, e->prefix_idle_bytes());
}

TEST_MAIN
