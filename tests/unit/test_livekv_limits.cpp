// Numbers and options that the livekv cache cannot store, and what is left when it says so.

#include <cmath>
#include <functional>

#include "check.h"
#include "error.h"
#include "policy/kv_option_table.h"
#include "tiny_sequences.h"

using namespace livekv;
using namespace tiny_sequences;

namespace {

session_params params_of() {
    return tiny_sequences::params_of("livekv", 32, 400);
}

constexpr int32_t broken_token = 2;  // some_tokens has none

// The embedding of one token is not a number.
tiny_spec with_broken_token() {
    tiny_spec spec;
    spec.n_layer = 3;
    spec.edit_values = [](const std::string & name, std::vector<float> & values) {
        if (name == "token_embd.weight") {
            values[broken_token * 64 + 7] = NAN;
        }
    };
    return spec;
}

}  // namespace

TEST(numbers_that_cannot_be_stored_stop_the_pass_they_come_in) {
    const auto m = tiny_model(with_broken_token());
    for (const int32_t n_threads : {1, 4}) {
        for (const int at : {0, 5, 31, 32, 40, 63, 64, 99}) {
            session_params p = params_of();
            p.n_threads = n_threads;
            const std::vector<int32_t> good = some_tokens(120);
            std::vector<int32_t> bad = good;
            bad[static_cast<size_t>(at)] = broken_token;
            bad[static_cast<size_t>(std::min(at / 32 * 32 + 31, at + 3))] =
                broken_token;  // and once more: the first one is named
            session s(m, p);
            CHECK_ERROR(last_logits(s, bad), "layer 0, position " + std::to_string(at) + ": ");
            CHECK_EQ(s.n_tokens(), at / 32 * 32);
            session fresh(m, p);
            const std::vector<float> expected = last_logits(fresh, good);
            CHECK(same_bits(last_logits(s, {good.begin() + s.n_tokens(), good.end()}), expected));
            CHECK_EQ(s.cache().bytes(), fresh.cache().bytes());
            CHECK_ERROR(last_logits(s, {broken_token}), "layer 0, position 120: ");
            s.trim(110);
            fresh.trim(110);
            CHECK(same_bits(last_logits(s, some_tokens(30)), last_logits(fresh, some_tokens(30))));
            s.reset();
            CHECK(same_bits(last_logits(s, good), expected));
        }
    }
}

TEST(the_layer_that_computed_them_is_named) {
    for (const char * tensor : {"blk.1.attn_k.weight", "blk.1.attn_v.weight"}) {
        for (const float bad : {static_cast<float>(NAN), INFINITY, 1e7f}) {  // the last: finite, but not in 16 bits
            tiny_spec spec;
            spec.n_layer = 3;
            spec.edit_values = [&](const std::string & name, std::vector<float> & values) {
                if (name == tensor) {
                    values[64 * 40 + 1] = bad;
                }
            };
            const auto m = tiny_model(spec);
            session s(m, params_of());
            CHECK_ERROR(last_logits(s, some_tokens(50)),
                        "layer 1, position 0: a query, key or value is not a number or too large for the cache");
            CHECK_EQ(s.n_tokens(), 0);
        }
    }
}

TEST(large_numbers_that_can_be_stored_are) {
    tiny_spec spec;
    spec.edit_values = [](const std::string & name, std::vector<float> & values) {
        if (name.find("attn_v.weight") != std::string::npos || name.find("attn_k.weight") != std::string::npos) {
            for (float & x : values) {
                x *= 5000.0f;  // keys and values of up to 3e4
            }
        }
    };
    for (const bool zero_point : {false, true}) {
        session_params p = params_of();
        p.kv.scale_method = kv_method::scale::ema_clipped;
        p.kv.zero_point = zero_point;
        session s(tiny_model(spec), p);
        for (const float x : decode(s, last_logits(s, some_tokens(150)), 40)) {
            if (!std::isfinite(x)) {
                CHECK(std::isfinite(x));
                break;
            }
        }
        CHECK_EQ(s.n_tokens(), 190);
    }
}

TEST(what_the_cache_cannot_store_is_an_error) {
    const auto m = tiny_model();
    const auto with = [&](const std::function<void(kv_options &)> & edit) {
        session_params p = params_of();
        edit(p.kv);
        session s(m, p);
    };
    CHECK_ERROR(with([](kv_options & o) { o.sink_tokens = 33; }), "sink_tokens: 33 is more than the chunk size, 32");
}

TEST(options_set_from_code_are_checked_as_those_of_the_command_line_are) {
    const auto m = tiny_model();
    const auto refuses = [&](const std::function<void(kv_options &)> & edit, const std::string & why) {
        session_params p = params_of();
        edit(p.kv);
        CHECK_ERROR(session(m, p), why.c_str());
    };
    refuses([](kv_options & o) { o.bits = 6; }, "kv_bits: 6 is not one of");
    refuses([](kv_options & o) { o.bits = kv_bits(4, 7); }, "kv_bits: 7 is not one of");
    refuses([](kv_options & o) { o.key_group = 48; }, "key_group: 48 is not a multiple of 32");
    refuses([](kv_options & o) { o.chunk_size = 33; }, "chunk_size: 33 is not a multiple of 32");
    refuses([](kv_options & o) { o.chunk_size = 8192; }, "chunk_size: 8192 is not");
    refuses([](kv_options & o) { o.rotate = static_cast<kv_rotate>(7); }, "rotate: the enumerator 7 does not exist");
    refuses([](kv_options & o) { o.scale_method = static_cast<kv_method::scale>(9); },
            "scale_method: the enumerator 9");
    refuses([](kv_options & o) { o.bypass_type = static_cast<kv_bypass>(2); }, "bypass_type: the enumerator 2");
    refuses([](kv_options & o) { o.ema_alpha = 0.0; }, "ema_alpha: 0 is not in 1e-06..1");
    refuses([](kv_options & o) { o.clip_factor = NAN; }, "clip_factor: nan is not in");
    refuses([](kv_options & o) { o.outlier_ratio = 0.2; }, "outlier_ratio: 0.2 is not in 0..0.1");
    refuses([](kv_options & o) { o.v_outlier_ratio = -0.5; }, "v_outlier_ratio: -0.5 is not");
    const auto allocates = [&](const std::function<void(kv_options &)> & edit, const std::string & why) {
        const auto both = [&](kv_options & o) {
            o.key_alloc = kv_key_alloc::block;
            o.outlier_ratio = 0.0;
            edit(o);
        };
        refuses(both, why);
    };
    const auto quarter = [&](const std::function<void(kv_options &)> & edit, const std::string & why) {
        const auto both = [&](kv_options & o) {
            o.key_quarters = 1;
            edit(o);
        };
        refuses(both, "key_quarters: 1 is for channels with widths of their own" + why);
    };
    quarter([](kv_options & o) { o.key_alloc = kv_key_alloc::off; }, " (key-alloc auto or block)");
    quarter([](kv_options & o) { o.outlier_ratio = 0.01; }, ": it takes outlier-ratio 0, not 0.01");
    refuses([](kv_options & o) { o.key_alloc = static_cast<kv_key_alloc>(3); }, "key_alloc: the enumerator 3");
    refuses(
        [](kv_options & o) {
            o.key_alloc = kv_key_alloc::off;
            o.key_feedback = kv_key_feedback::on;
        },
        "key_feedback: it is for channels with widths of their own (key-alloc auto or block)");
    allocates([](kv_options & o) { o.key_quarters = 4; }, "key_quarters: 4 is not in 0..3");
    allocates([](kv_options & o) { o.bits = 8; }, "key_alloc: channels have up to 6 bits");
    allocates([](kv_options & o) { o.outlier_ratio = 0.01; }, "key_alloc: it takes outlier-ratio 0, not 0.01");
    allocates([](kv_options & o) { o.rotate = kv_rotate::kv; }, "key_alloc: it takes keys that are not rotated");
    allocates([](kv_options & o) { o.zero_point = false; }, "key_alloc: it takes zero-point on");
    allocates([](kv_options & o) { o.scale_method = kv_method::scale::ema_absmax; }, "key_alloc: it takes zero-point");
    refuses([](kv_options & o) { o.sink_tokens = -1; }, "sink_tokens: -1 is not");
    refuses([](kv_options & o) { o.warmup_chunks = -1; }, "warmup_chunks: -1 is not");
    refuses([](kv_options & o) { o.bypass_layers = -2; }, "bypass_layers: -2 is not");
}

TEST(channels_have_widths_of_their_own_unless_another_option_excludes_them) {
    const auto has = [](const std::function<void(kv_options &)> & edit) {
        kv_options o;
        edit(o);
        o.check();
        CHECK(o.method().key_classes == o.has_key_classes());
        return o.has_key_classes();
    };
    CHECK(has([](kv_options &) {}));
    CHECK(has([](kv_options & o) { o.bits = {5, 8}; }));
    CHECK(has([](kv_options & o) { o.rotate = kv_rotate::none; }));
    CHECK(!has([](kv_options & o) { o.key_alloc = kv_key_alloc::off; }));
    CHECK(!has([](kv_options & o) { o.bits = 8; }));
    CHECK(!has([](kv_options & o) { o.outlier_ratio = 0.01; }));
    CHECK(!has([](kv_options & o) { o.rotate = kv_rotate::k; }));
    CHECK(!has([](kv_options & o) { o.zero_point = false; }));
    CHECK(!has([](kv_options & o) { o.scale_method = kv_method::scale::ema_minmax; }));
}

TEST(channels_with_widths_of_their_own_are_rounded_by_error_feedback_unless_told_otherwise) {
    const auto has = [](const std::function<void(kv_options &)> & edit) {
        kv_options o;
        edit(o);
        o.check();
        CHECK(o.method().key_feedback == o.has_key_feedback());
        return o.has_key_feedback();
    };
    CHECK(has([](kv_options &) {}));
    CHECK(has([](kv_options & o) { o.key_feedback = kv_key_feedback::on; }));
    CHECK(!has([](kv_options & o) { o.key_feedback = kv_key_feedback::off; }));
    CHECK(!has([](kv_options & o) { o.key_alloc = kv_key_alloc::off; }));
    CHECK(!has([](kv_options & o) { o.bits = 8; }));
    CHECK(!has([](kv_options & o) { apply_kv_preset("reference", o); }));
    CHECK(has([](kv_options & o) { apply_kv_preset("tiny", o); }));
}

TEST(an_option_that_the_policy_does_not_read_is_refused_by_name) {
    const auto m = tiny_model();
    for (const char * policy : {"f16", "q8_0", "q4_0"}) {
        session_params p = params_of();
        p.kv = kv_options();
        p.kv.policy = policy;
        session(m, p).prefill(some_tokens(5));  // the chunk's size is everybody's
        p.kv.bits = 2;
        CHECK_ERROR(session(m, p), "kv_bits: the cache " + std::string(policy) +
                                       " does not read it, livekv, kivi, fastkv, kvquant do");
        p.kv = p.kv.for_policy(policy);
        session(m, p).prefill(some_tokens(5));
    }
}

TEST_MAIN
