// The livekv cache in a session on tiny models: the same result whatever the threads, forks, trims, and numbers that
// cannot be stored.

#include <cmath>
#include <cstring>

#include "check.h"
#include "error.h"
#include "session/generate.h"
#include "session/session.h"
#include "tiny_model.h"

using namespace livekv;

namespace {

constexpr int64_t chunk = 32;

std::shared_ptr<const model> tiny_model(const tiny_spec & spec = {}) {
    const temporary_file path(".gguf");
    write_tiny_model(spec, path.path());
    return model::load(path.path());
}

session_params params_of(int64_t n_ctx = 400) {
    session_params p;
    p.n_ctx = n_ctx;
    p.n_threads = 2;
    p.kv.chunk_size = chunk;
    return p;
}

std::vector<int32_t> some_tokens(int n, uint32_t seed = 3) {
    std::vector<int32_t> tokens;
    while (static_cast<int>(tokens.size()) < n) {
        seed = seed * 1103515245 + 12345;
        tokens.push_back(3 + static_cast<int32_t>((seed >> 8) % 200));
    }
    return tokens;
}

std::vector<float> prefill(session & s, const std::vector<int32_t> & tokens) {
    const auto logits = s.prefill(tokens);
    return {logits.begin(), logits.end()};
}

// The logits of each of n greedy tokens after the last one of the prompt.
std::vector<float> decode(session & s, std::vector<float> logits, int n) {
    std::vector<float> all = logits;
    for (int i = 0; i < n; ++i) {
        const int32_t next = static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
        logits = prefill(s, {next});
        all.insert(all.end(), logits.begin(), logits.end());
    }
    return all;
}

bool same_bits(const std::vector<float> & a, const std::vector<float> & b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

double nmse(const std::vector<float> & a, const std::vector<float> & b) {
    double error = 0.0;
    double power = 0.0;
    for (size_t i = 0; i < a.size(); ++i) {
        error += (a[i] - b[i]) * (a[i] - b[i]);
        power += b[i] * b[i];
    }
    return error / power;
}

constexpr int32_t broken_token = 250;  // some_tokens has none

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

TEST(results_do_not_depend_on_threads) {
    const auto m = tiny_model();
    for (const char * scale : {"ema_absmax", "ema_clipped"}) {
        std::vector<float> expected;
        for (const int32_t n_threads : {1, 2, 4}) {
            session_params p = params_of(1600);
            p.n_threads = n_threads;
            p.kv.scale_method = scale;
            session s(m, p);
            const std::vector<float> logits =
                decode(s, prefill(s, some_tokens(1450)), 40);  // long enough to be cut into spans
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
    exact.kv.chunk_size = 256;  // ggml sums values in f16 for fewer than 64 queries
    session reference(m, exact);
    const std::vector<float> expected = prefill(reference, tokens);
    const auto difference = [&](const std::function<void(kv_options &)> & edit) {
        session_params p = params_of();
        p.kv.scale_method = "range";
        edit(p.kv);
        session s(m, p);
        return nmse(prefill(s, tokens), expected);
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
              o.bypass_type = "f16";
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
    const std::vector<float> expected = prefill(whole, tokens);
    std::vector<float> got;
    for (const int32_t token : tokens) {
        got = prefill(by_one, {token});
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
    std::vector<float> logits = prefill(s, some_tokens(50));
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
    CHECK(same_bits(prefill(small, some_tokens(100)), prefill(large, some_tokens(100))));
    CHECK_EQ(small.cache().bytes(), large.cache().bytes());
    std::vector<size_t> bytes;
    for (int i = 0; i < 6; ++i) {
        prefill(large, some_tokens(i == 0 ? 60 : 64));  // 160 tokens, then two chunks more each time
        bytes.push_back(large.cache().bytes());
    }
    for (size_t i = 2; i < bytes.size(); ++i) {
        CHECK_EQ(bytes[i] - bytes[i - 1], bytes[1] - bytes[0]);
    }
    CHECK_ERROR(prefill(small, some_tokens(40)), "the context holds 128 tokens");
}

TEST(parts_of_the_report_sum_to_all_bytes) {
    const auto m = tiny_model();
    for (const char * bypass : {"f16", "q8_0"}) {
        session_params p = params_of();
        p.kv.bypass_layers = 1;
        p.kv.bypass_type = bypass;
        session s(m, p);
        prefill(s, some_tokens(150));
        const kv_report::parts b = s.cache().report().bytes;
        CHECK_EQ(b.codes + b.scales + b.outliers + b.sinks + b.warm_up + b.bypass + b.tail + b.statistics + b.padding,
                 s.cache().bytes());
        CHECK(b.codes > 0 && b.scales > 0 && b.outliers > 0 && b.sinks > 0 && b.bypass > 0 && b.tail > 0);
        CHECK_EQ(b.warm_up, 0u);
        const double f16_layer = 2.0 * 2 * 64 * 128;
        CHECK(static_cast<double>(b.bypass) > (bypass == std::string("f16") ? 1.0 : 0.53) * f16_layer);
        CHECK(static_cast<double>(b.bypass) < (bypass == std::string("f16") ? 1.05 : 0.64) * f16_layer);
    }
}

TEST(a_reset_session_is_a_new_one) {
    const auto m = tiny_model();
    session used(m, params_of());
    decode(used, prefill(used, some_tokens(140, 9)), 20);
    used.reset();
    CHECK_EQ(used.n_tokens(), 0);
    session fresh(m, params_of());
    CHECK_EQ(used.cache().bytes(), fresh.cache().bytes());
    CHECK(same_bits(decode(used, prefill(used, some_tokens(150)), 20),
                    decode(fresh, prefill(fresh, some_tokens(150)), 20)));
    CHECK_EQ(used.cache().bytes(), fresh.cache().bytes());
}

TEST(a_trimmed_session_goes_on) {
    const auto m = tiny_model();
    const std::vector<int32_t> head = some_tokens(100);
    const std::vector<int32_t> rest = some_tokens(30, 21);
    session fresh(m, params_of());
    prefill(fresh, head);
    const std::vector<float> expected = prefill(fresh, rest);
    session s(m, params_of());
    prefill(s, head);
    prefill(s, some_tokens(20, 77));  // in the tail
    s.trim(100);
    CHECK(same_bits(prefill(s, rest), expected));
    for (const int64_t n :
         {1, 3, 4, 31, 32, 33, 64, 90}) {  // in blocks: later logits are near those of a fresh session
        session trimmed(m, params_of());
        prefill(trimmed, head);
        trimmed.trim(n);
        session direct(m, params_of());
        prefill(direct, {head.begin(), head.begin() + n});
        const double d = nmse(prefill(trimmed, rest), prefill(direct, rest));
        if (!(d < 0.02)) {
            check::report(__FILE__, __LINE__, "trimmed to " + std::to_string(n) + ": NMSE " + std::to_string(d));
        }
    }
}

TEST(forked_sessions_do_not_touch_each_other) {
    const auto m = tiny_model();
    for (const int n : {20, 40, 90}) {
        session alone(m, params_of());
        const std::vector<float> expected = decode(alone, prefill(alone, some_tokens(n)), 90);
        session other(m, params_of());
        prefill(other, some_tokens(n));
        const std::vector<float> expected_child = prefill(other, some_tokens(70, 5));
        session parent(m, params_of());
        const std::vector<float> logits = prefill(parent, some_tokens(n));
        const std::unique_ptr<session> child = parent.fork();
        CHECK(same_bits(prefill(*child, some_tokens(70, 5)), expected_child));
        child->trim(10);
        prefill(*child, some_tokens(50, 6));
        CHECK(same_bits(decode(parent, logits, 90), expected));
        CHECK_EQ(child->n_tokens(), 60);
    }
}

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
            CHECK_ERROR(prefill(s, bad), "layer 0, position " + std::to_string(at) + ": ");
            CHECK_EQ(s.n_tokens(), at / 32 * 32);
            session fresh(m, p);
            const std::vector<float> expected = prefill(fresh, good);
            CHECK(same_bits(prefill(s, {good.begin() + s.n_tokens(), good.end()}), expected));
            CHECK_EQ(s.cache().bytes(), fresh.cache().bytes());
            CHECK_ERROR(prefill(s, {broken_token}), "layer 0, position 120: ");
            s.trim(110);
            fresh.trim(110);
            CHECK(same_bits(prefill(s, some_tokens(30)), prefill(fresh, some_tokens(30))));
            s.reset();
            CHECK(same_bits(prefill(s, good), expected));
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
            CHECK_ERROR(prefill(s, some_tokens(50)),
                        "layer 1, position 0: a key or value is not a number or too large for 16 bits");
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
        p.kv.scale_method = "ema_clipped";
        p.kv.zero_point = zero_point;
        session s(tiny_model(spec), p);
        for (const float x : decode(s, prefill(s, some_tokens(150)), 40)) {
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
    CHECK_ERROR(with([](kv_options & o) { o.sink_tokens = 33; }), "--sink-tokens 33 is more than --chunk-size 32");
    CHECK_ERROR(with([](kv_options & o) {
                    o.scale_method = "ema_absmax";
                    o.scale_search = true;
                }),
                "--scale-search goes with");
    CHECK_ERROR(with([](kv_options & o) {
                    o.seal_decode = false;
                    o.tail_chunks = 2;
                }),
                "--tail-chunks 2 goes with --seal-decode on");
}

TEST_MAIN
