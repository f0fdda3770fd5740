#include <cmath>

#include "check.h"
#include "error.h"
#include "tiny_sequences.h"

using namespace livekv;
using namespace tiny_sequences;

namespace {

// Largest difference over the range of the reference.
double relative_difference(const std::vector<float> & a, const std::vector<float> & b) {
    const auto [low, high] = std::minmax_element(b.begin(), b.end());
    double worst = 0.0;
    for (size_t i = 0; i < a.size(); ++i) {
        worst = std::max(worst, std::fabs(static_cast<double>(a[i]) - b[i]));
    }
    return a.size() == b.size() ? worst / (*high - *low) : INFINITY;
}

// Chunks change the order in which attention sums (other tiles, one thread or two), nothing else.
constexpr double summation_tolerance = 2e-5;

// ggml's CPU attention over f16 rows sums values in f16 (11 bits) when a chunk has fewer than 64 tokens, and in f32
// otherwise; random weights magnify the difference.
constexpr double f16_sum_tolerance = 4e-3;

}  // namespace

TEST(chunked_prefill_equals_unchunked) {
    const auto m = tiny_model();
    const std::vector<int32_t> tokens = some_tokens(270);  // past a view's padding of 256 rows
    for (const char * kv : {"f16", "q8_0", "q4_0"}) {
        session whole(m, params_of(kv, 320));
        const std::vector<float> expected = last_logits(whole, tokens);
        for (const int64_t chunk : {1, 7, 32, 64, 90, 135}) {
            session s(m, params_of(kv, 320));
            std::vector<float> logits;
            for (size_t done = 0; done < tokens.size(); done += static_cast<size_t>(chunk)) {
                const auto first = tokens.begin() + static_cast<int64_t>(done);
                logits = last_logits(s, {first, first + std::min<int64_t>(chunk, tokens.end() - first)});
            }
            const double difference = relative_difference(logits, expected);
            const bool small_f16 = kv == std::string("f16") && chunk <= 64;  // 64: the last chunk has 14
            if (!(difference < (small_f16 ? f16_sum_tolerance : summation_tolerance))) {
                check::report(__FILE__, __LINE__,
                              std::string(kv) + " in chunks of " + std::to_string(chunk) + " differs by " +
                                  std::to_string(difference));
            }
        }
    }
}

TEST(passes_without_logits_of_a_model_of_one_layer_lead_to_the_same_logits) {
    tiny_spec spec;
    spec.n_layer = 1;
    const auto m = tiny_model(spec);
    const std::vector<int32_t> tokens = some_tokens(1100);  // past several paddings of 256 rows
    for (const char * kv : {"livekv", "f16", "q8_0", "q4_0"}) {
        IN(kv);
        session s(m, params_of(kv, 256, 1200));
        const std::vector<float> logits = last_logits(s, tokens);
        session all(m, params_of(kv, 256, 1200));
        std::vector<float> last;
        all.eval(tokens, 0, [&](int64_t, int64_t n_rows, std::span<const float> rows) {
            const std::span<const float> row = rows.last(rows.size() / static_cast<size_t>(n_rows));
            last.assign(row.begin(), row.end());
        });
        CHECK(relative_difference(logits, last) < summation_tolerance);
    }
}

TEST(a_repeated_run_gives_the_same_bits) {
    const auto m = tiny_model();
    const std::vector<int32_t> tokens = some_tokens(100);
    session a(m, params_of("f16", 32));
    session b(m, params_of("f16", 32));
    const std::vector<float> first = last_logits(a, tokens);
    CHECK(same_bits(first, last_logits(b, tokens)));
    a.reset();
    CHECK(same_bits(first, last_logits(a, tokens)));
}

TEST(all_logits_agree_with_the_last_ones) {
    const auto m = tiny_model();
    const std::vector<int32_t> tokens = some_tokens(90);
    session a(m, params_of("f16", 32));
    session b(m, params_of("f16", 32));
    const std::vector<float> last = last_logits(a, tokens);
    std::vector<float> all;
    int64_t expected_first = 40;
    b.eval(tokens, 40, [&](int64_t first, int64_t n_rows, std::span<const float> logits) {
        CHECK_EQ(first, expected_first);
        expected_first += n_rows;
        all.assign(logits.end() - m->hp.n_vocab, logits.end());
    });
    CHECK_EQ(expected_first, 90);
    CHECK(relative_difference(all, last) < summation_tolerance);
}

TEST(trim_forgets_what_came_after) {
    const auto m = tiny_model();
    const std::vector<int32_t> head = some_tokens(40);
    const std::vector<int32_t> tail = some_tokens(30, 99);
    for (const char * kv : {"f16", "q8_0", "q4_0"}) {
        session fresh(m, params_of(kv, 64));
        fresh.prefill(head);
        const std::vector<float> expected = last_logits(fresh, tail);
        session s(m, params_of(kv, 64));
        s.prefill(head);
        s.prefill(some_tokens(120, 5));
        s.trim(40);
        CHECK_EQ(s.n_tokens(), 40);
        CHECK(same_bits(last_logits(s, tail), expected));
    }
}

TEST(later_tokens_do_not_change_earlier_logits) {
    const auto m = tiny_model();
    std::vector<int32_t> tokens = some_tokens(64);
    const auto row_20 = [&](const std::vector<int32_t> & t) {
        session s(m, params_of("f16", 64));
        std::vector<float> row;
        s.eval(t, 0, [&](int64_t, int64_t, std::span<const float> logits) {
            row.assign(logits.begin() + 20 * m->hp.n_vocab, logits.begin() + 21 * m->hp.n_vocab);
        });
        return row;
    };
    const std::vector<float> before = row_20(tokens);
    tokens[21] = tokens[21] == 50 ? 51 : 50;
    CHECK(same_bits(row_20(tokens), before));
    tokens[19] = tokens[19] == 50 ? 51 : 50;
    CHECK(!same_bits(row_20(tokens), before));
}

TEST(caches_hold_what_their_type_says) {
    const auto m = tiny_model();
    const double bits[] = {16.0, 8.5, 4.5};
    int i = 0;
    for (const char * kv : {"f16", "q8_0", "q4_0"}) {
        session s(m, params_of(kv, 64, 256));  // exactly a view's padding: no spare rows
        CHECK(!s.kv_bits_per_value());
        s.prefill(some_tokens(256));
        CHECK_EQ(s.kv_bits_per_value(), bits[i++]);
    }
}

TEST(every_head_ratio_and_odd_head_dim_runs) {
    for (const uint32_t n_head_kv : {1u, 2u, 4u}) {
        for (const uint32_t head_dim : {8u, 40u, 64u}) {
            tiny_spec spec;
            spec.n_head_kv = n_head_kv;
            spec.head_dim = head_dim;
            session whole(tiny_model(spec), params_of("f16", 128));
            session parts(tiny_model(spec), params_of("f16", 64));
            const std::vector<int32_t> tokens = some_tokens(100);
            CHECK(relative_difference(last_logits(parts, tokens), last_logits(whole, tokens)) < f16_sum_tolerance);
        }
    }
}

TEST(every_weight_type_computes_what_its_values_say) {
    // The same values in float32 are the reference: what is left is ggml's rounding of activations to 8 bits.
    constexpr double activation_rounding = 4e-3;
    constexpr double f16_rounding = 2e-4;  // 16-bit weights meet 16-bit activations
    tiny_spec spec;
    spec.n_embd = 256;  // the superblock of the K types
    spec.n_ff = 256;
    spec.head_dim = 64;
    const std::vector<int32_t> tokens = some_tokens(50);
    // All types ggml multiplies with and can quantize to without an importance matrix.
    for (const ggml_type type :
         {GGML_TYPE_F16,     GGML_TYPE_BF16,   GGML_TYPE_Q8_0,  GGML_TYPE_Q6_K,  GGML_TYPE_Q5_0,
          GGML_TYPE_Q5_1,    GGML_TYPE_Q5_K,   GGML_TYPE_Q4_0,  GGML_TYPE_Q4_1,  GGML_TYPE_Q4_K,
          GGML_TYPE_IQ4_NL,  GGML_TYPE_IQ4_XS, GGML_TYPE_MXFP4, GGML_TYPE_Q3_K,  GGML_TYPE_IQ3_S,
          GGML_TYPE_IQ3_XXS, GGML_TYPE_Q2_K,   GGML_TYPE_IQ2_S, GGML_TYPE_TQ2_0, GGML_TYPE_TQ1_0}) {
        spec.rounded_to = type;
        spec.matrix_type = GGML_TYPE_F32;
        session exact(tiny_model(spec), params_of("f16", 64));
        const std::vector<float> expected = last_logits(exact, tokens);
        spec.rounded_to = GGML_TYPE_F32;
        spec.matrix_type = type;
        session s(tiny_model(spec), params_of("f16", 64));
        const double difference = nmse(last_logits(s, tokens), expected);
        const double bound = ggml_is_quantized(type) ? activation_rounding : f16_rounding;
        std::printf("  %s weights: NMSE %.2e, %.0f %% of the bound\n", ggml_type_name(type), difference,
                    100.0 * difference / bound);
        CHECK(difference < bound);
    }
}

TEST(what_does_not_fit_is_an_error_and_changes_nothing) {
    const auto m = tiny_model();
    session s(m, params_of("f16", 32, 64));
    CHECK_ERROR(s.prefill(some_tokens(65)), "the context holds 64 tokens, 65 are needed");
    CHECK_EQ(s.n_tokens(), 0);
    CHECK_ERROR(s.prefill(std::vector<int32_t>{1, 259}), "token id 259");
    CHECK_ERROR(s.prefill(std::vector<int32_t>{-1}), "token id -1");
    CHECK_ERROR(s.prefill(std::vector<int32_t>{}), "no tokens");
    CHECK_EQ(s.n_tokens(), 0);
    s.prefill(some_tokens(64));
    CHECK_ERROR(s.prefill(some_tokens(1)), "65 are needed");
    CHECK_EQ(s.n_tokens(), 64);
}

TEST(a_cache_that_cannot_be_is_an_error) {
    const auto m = tiny_model();
    CHECK_ERROR(session(m, params_of("f16", 32, int64_t(1) << 31)), "not enough memory");
    CHECK_ERROR(session(m, params_of("fp4", 32)), "unknown cache policy 'fp4'");
    tiny_spec odd;
    odd.head_dim = 40;
    CHECK_ERROR(session(tiny_model(odd), params_of("q4_0", 32)), "head_dim is 40");
}

TEST_MAIN
