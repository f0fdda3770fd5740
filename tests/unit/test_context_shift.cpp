// A context shift: what leaves is gone, what stays is where a new sequence would have it, and goes on like any other.

#include <algorithm>
#include <cmath>

#include "check.h"
#include "engine/engine.h"
#include "error.h"
#include "policy/kv_policies.h"
#include "saved_sequence.h"
#include "session/generate.h"
#include "tiny_calibration.h"

using namespace livekv;
using namespace tiny_sequences;

namespace {

constexpr int64_t chunk = 32;
const std::vector<std::string> policies = {"f16",      "q8_0", "q4_0_rot", "livekv", "livekv, 8 bits",
                                           "kvstream", "kivi", "kvquant"};

bool is_chunked(const std::string & kv) {
    return kv.starts_with("livekv") || kv == "kvstream" || kv == "kivi" || kv == "kvquant";
}

tiny_spec spec_of(const std::string & arch) {
    tiny_spec spec;
    spec.arch = arch;
    spec.n_ctx = 1024;
    spec.head_dim = 64;
    if (arch == "gemma3") {
        spec.n_layer = 4;  // the second and the fourth see all
        spec.window = 40;
        spec.tied = true;
    }
    return spec;
}

session_params short_params(const model & m, const std::string & kv, int64_t n_ctx) {
    session_params p = calibrated_params(m, kv.substr(0, kv.find(',')), chunk, n_ctx);
    if (kv == "livekv, 8 bits") {
        p.kv.bits = 8;
        p.kv.key_alloc = kv_key_alloc::off;
    }
    return p;
}

std::vector<float> part(const std::vector<float> & x, int64_t n_head, int64_t first, int64_t n) {
    const auto n_tokens = static_cast<int64_t>(x.size()) / n_head;  // times head_dim
    std::vector<float> out;
    for (int64_t h = 0; h < n_head; ++h) {
        out.insert(out.end(), x.begin() + h * n_tokens + first, x.begin() + h * n_tokens + first + n);
    }
    return out;
}

}  // namespace

// A first layer's keys depend on a token and its position alone: they must be those of a new sequence of what is left.
TEST(what_stays_has_the_keys_of_its_new_positions) {
    for (const char * arch : {"llama", "qwen2", "gemma3"}) {
        const auto m = tiny_model(spec_of(arch));
        const bool windowed = m->hp.window(0) > 0;
        const int64_t n_head = m->hp.n_head_kv(0);
        const int64_t d = m->hp.head_dim(0);
        for (const std::string & kv : policies) {
            IN(arch, " ", kv);
            session s(m, short_params(*m, kv, 310));
            const std::vector<int32_t> tokens = some_tokens(310);
            s.prefill(tokens);
            const std::vector<float> logits(s.last_logits().begin(), s.last_logits().end());
            const kv_layer_dump before = s.cache().dump(0);
            const int64_t gone = s.make_room(1, 40);
            const bool dense = !is_chunked(kv);
            const int64_t first = dense ? 40 : 64;
            // A window's layers have given chunks back: what would bring one into reach again does not leave.
            CHECK_EQ(gone, dense ? 135 : windowed ? 32 : 160);
            CHECK_EQ(s.n_tokens(), 310 - gone);
            CHECK_EQ(s.n_forgotten(), gone);
            CHECK(same_bits(s.last_logits(), logits));
            std::vector<int32_t> left = tokens;
            left.erase(left.begin() + first, left.begin() + first + gone);
            CHECK(std::ranges::equal(s.tokens(), left));
            session fresh(s.get_engine(), s.params());
            fresh.prefill(left);
            const kv_layer_dump moved = s.cache().dump(0);
            const kv_layer_dump expected = fresh.cache().dump(0);
            const int64_t from = windowed && !dense ? 64 : 0;  // of the first layer's chunks the others are gone
            const auto here = [&](const std::vector<float> & x) {
                return part(x, n_head, from * d, (310 - gone - from) * d);
            };
            const double limit = kv == "f16" ? 1e-6 : kv == "q8_0" || kv == "livekv, 8 bits" ? 1e-3 : 0.03;
            CHECK(nmse(here(moved.k.reconstruction), here(expected.k.reconstruction)) < limit);
            CHECK(same_bits(part(moved.v.reconstruction, n_head, first * d, (310 - gone - first) * d),
                            part(before.v.reconstruction, n_head, (first + gone) * d, (310 - gone - first) * d)));
        }
    }
}

TEST(keys_before_rope_move_without_a_bit_of_loss) {
    const auto m = tiny_model(spec_of("llama"));
    for (const char * kv : {"kvstream", "kvquant"}) {
        IN(kv);
        session s(m, short_params(*m, kv, 310));
        s.prefill(some_tokens(310));
        const kv_layer_dump before = s.cache().dump(1);
        const int64_t gone = s.make_room(1, 1);
        const kv_layer_dump after = s.cache().dump(1);
        const int64_t row = static_cast<int64_t>(after.k.stored.size()) / (m->hp.n_head_kv(1) * s.n_tokens());
        const int64_t n = (s.n_tokens() - chunk) * row;
        CHECK(same_bits(part(after.k.stored, m->hp.n_head_kv(1), chunk * row, n),
                        part(before.k.stored, m->hp.n_head_kv(1), (chunk + gone) * row, n)));
    }
}

TEST(a_shifted_sequence_can_be_forked_saved_restored_and_shortened) {
    for (const char * arch : {"llama", "gemma3"}) {
        const auto m = tiny_model(spec_of(arch));
        for (const std::string & kv : policies) {
            IN(arch, " ", kv);
            const auto e = std::make_shared<engine>(m, 2, size_t(1) << 24);
            session s(e, short_params(*m, kv, 360));
            s.prefill(some_tokens(350));
            CHECK(s.make_room(30, 33) > 0);
            const std::vector<int32_t> more = some_tokens(30, 9);
            s.prefill(more);
            const std::unique_ptr<session> copy = s.fork();
            session restored(e, s.params());
            if (find_kv_policy(s.params().kv.policy).saves()) {
                const temporary_file file(".kv");
                s.save(file.path());
                restored.load(file.path());
                CHECK_EQ(restored.n_tokens(), s.n_tokens());
            } else {
                restored.adopt(s.cache().fork(), {s.tokens().begin(), s.tokens().end()});
            }
            const int64_t n = s.n_tokens() - 5;
            s.trim(n);
            copy->trim(n);
            restored.trim(n);
            const std::vector<float> expected = decode(s, last_logits(s, {5, 6, 7}), 12);
            CHECK(same_bits(decode(*copy, last_logits(*copy, {5, 6, 7}), 12), expected));
            CHECK(same_bits(decode(restored, last_logits(restored, {5, 6, 7}), 12), expected));
        }
    }
}

// Its chunks are not what others of the same tokens would have.
TEST(nobody_shares_what_has_seen_more_than_its_tokens) {
    const auto m = tiny_model(spec_of("llama"));
    const auto e = std::make_shared<engine>(m, 2, size_t(1) << 24);
    session s(e, short_params(*m, "livekv", 320));
    s.prefill(some_tokens(10 * chunk));
    CHECK_EQ(s.make_room(8 * chunk, chunk + 1), 8 * chunk);  // what comes next begins a chunk of its own
    s.prefill(some_tokens(4 * chunk, 6));
    const std::vector<int32_t> tokens(s.tokens().begin(), s.tokens().end());
    session other(e, s.params());
    CHECK_EQ(static_cast<int64_t>(other.reuse(tokens)), 2 * chunk);  // which nothing was before
}

TEST(a_text_goes_on_where_the_context_ends) {
    for (const char * arch : {"llama", "gemma3"}) {
        const auto m = tiny_model(spec_of(arch));
        for (const std::string & kv : policies) {
            for (const int64_t n_lookup : {0, 8}) {
                IN(arch, " ", kv, " ", n_lookup);
                generate_params params;
                params.n_predict = 500;
                params.ignore_eos = true;
                params.sampling.temperature = 0.0;
                params.n_lookup = n_lookup;
                session ends(m, short_params(*m, kv, 200));
                const generate_result full = generate(ends, some_tokens(50), params, {});
                CHECK(full.reason == stop_reason::context_full && full.n_forgotten == 0);
                params.n_keep = 20;
                session s(m, short_params(*m, kv, 200));
                const generate_result r = generate(s, some_tokens(50), params, {});
                CHECK(r.reason == stop_reason::n_predict);
                CHECK_EQ(r.n_generated, 500);
                CHECK(s.n_tokens() <= 200 && s.n_tokens() + r.n_forgotten == 50 + 499);
                CHECK(std::ranges::equal(s.tokens().first(20), some_tokens(20)));
            }
        }
    }
}

TEST(what_cannot_leave_says_so_or_ends_the_text) {
    const auto m = tiny_model(spec_of("llama"));
    session_params turned = short_params(*m, "kvstream", 200);
    turned.kv.pre_rope = false;
    session s(m, turned);
    generate_params params;
    params.n_keep = 4;
    CHECK_ERROR(generate(s, some_tokens(5), params, {}), "sealed after RoPE");
    session guided(m, short_params(*m, "guided", 200));
    CHECK_ERROR(generate(guided, some_tokens(5), params, {}), "cannot leave a cache of policy guided: how its tokens");
    params.n_keep = -1;
    CHECK_ERROR(generate(s, some_tokens(5), params, {}), "n_keep");
    params.n_keep = 1;
    params.n_predict = 100;
    params.ignore_eos = true;
    session small(m, short_params(*m, "livekv", 40));  // one chunk and a tail: nothing is between
    CHECK(generate(small, some_tokens(5), params, {}).reason == stop_reason::context_full);
    session all(m, short_params(*m, "livekv", 200));
    params.n_keep = 190;
    CHECK(generate(all, some_tokens(150), params, {}).reason == stop_reason::context_full);
    CHECK_ERROR(generate(all, some_tokens(201), params, {}), "the context holds");
}

TEST_MAIN
