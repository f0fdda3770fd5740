// Models whose logits are not numbers: every way to ask for logits is refused, and the sequence goes on.

#include <cmath>

#include "check.h"
#include "error.h"
#include "session/fidelity.h"
#include "session/generate.h"
#include "tiny_calibration.h"

using namespace livekv;
using namespace tiny_sequences;

namespace {

constexpr int32_t broken_token = 258;
constexpr uint32_t head_dim = 64;  // of which every policy can store a cache

// A model that is right until it reads broken_token: its embedding holds one value that is not a number.
std::shared_ptr<const model> breaks_at_a_token(float bad = NAN) {
    tiny_spec spec;
    spec.head_dim = head_dim;
    spec.edit_values = [bad](const std::string & name, std::vector<float> & values) {
        if (name == "token_embd.weight") {
            values[static_cast<size_t>(broken_token) * 64 + 7] = bad;
        }
    };
    return tiny_model(spec);
}

// Keys and values are right, and so are all logits but one token's.
std::shared_ptr<const model> one_bad_logit(float bad) {
    tiny_spec spec;
    spec.head_dim = head_dim;
    spec.edit_values = [bad](const std::string & name, std::vector<float> & values) {
        if (name == "output.weight") {
            values[40 * 64] = bad;
        }
    };
    return tiny_model(spec);
}

std::vector<int32_t> good_tokens(int n, uint32_t seed = 3) {
    std::vector<int32_t> tokens = some_tokens(n, seed);
    std::replace(tokens.begin(), tokens.end(), broken_token, broken_token - 1);
    return tokens;
}

}  // namespace

TEST(the_logit_and_its_position_are_named_and_nothing_is_added) {
    for (const float bad : {static_cast<float>(NAN), INFINITY, -INFINITY}) {
        const auto m = one_bad_logit(bad);
        for (const std::string & kv : prompt_policies()) {
            session s(m, calibrated_params(*m, kv, 32));
            // A product of an infinite weight is infinite or, with a zero, NaN: either is refused.
            CHECK_ERROR(s.prefill(good_tokens(20)),
                        "the model's logits are not numbers: that of token 40 after "
                        "position 19 is ");
            CHECK_EQ(s.n_tokens(), 0);
            CHECK(s.tokens().empty() && s.last_logits().empty());
            const auto ignore = [](int64_t, int64_t, std::span<const float>) {};
            CHECK_ERROR(s.eval(good_tokens(50), 7, ignore), "that of token 40 after position 7 is ");
            s.reset();
            CHECK_ERROR(s.eval(good_tokens(50), 34, ignore), "that of token 40 after position 34 is ");
            CHECK_EQ(s.n_tokens(),
                     kv == "fastkv" ? 34 : 32);  // its prompt, and the first chunk, whose logits are not wanted
            s.reset();
            CHECK_ERROR(generate(s, good_tokens(20), {}, {}), "the model's logits are not numbers");
            fidelity_params p;
            p.test = calibrated_params(*m, kv, 32, 64);
            CHECK_ERROR(measure_fidelity(m, good_tokens(128), p), "that of token 40 after position 32 is ");
            p.kl_base = p.test.kv;
            CHECK_ERROR(measure_fidelity(m, good_tokens(128), p), "the model's logits are not numbers");
        }
    }
}

// Rows of a pass that failed lie beyond the sequence; caches that are read in steps of rows read them too.
TEST(a_sequence_goes_on_after_a_pass_that_was_refused) {
    for (const float bad : {static_cast<float>(NAN), INFINITY}) {
        const auto m = breaks_at_a_token(bad);
        for (const std::string & kv : prompt_policies()) {
            for (const int n_bad : {1, 140}) {
                session s(m, calibrated_params(*m, kv, 256, 400));
                session fresh(m, calibrated_params(*m, kv, 256, 400));
                last_logits(s, good_tokens(57));
                last_logits(fresh, good_tokens(57));
                CHECK_ERROR(s.prefill(std::vector<int32_t>(static_cast<size_t>(n_bad), broken_token)), " not ");
                CHECK_EQ(s.n_tokens(), 57);
                for (const int n : {1, 70, 1}) {  // 64 and more are another path of ggml's
                    const std::vector<int32_t> more = good_tokens(n, static_cast<uint32_t>(n));
                    CHECK(same_bits(last_logits(s, more), last_logits(fresh, more)));
                }
            }
        }
    }
}

TEST(a_sequence_trimmed_to_before_what_was_not_a_number_goes_on) {
    const auto m = breaks_at_a_token();
    for (const char * kv : {"f16", "livekv"}) {  // ggml's quantized types do not keep what is not a number
        session s(m, params_of(kv, 128, 400));
        session fresh(m, params_of(kv, 128, 400));
        std::vector<int32_t> tokens = good_tokens(300);
        tokens[100] = broken_token;
        CHECK_ERROR(s.prefill(tokens), " not ");  // after one chunk or two whose logits nobody saw
        s.reset();
        CHECK(same_bits(last_logits(s, good_tokens(70)), last_logits(fresh, good_tokens(70))));
    }
}

TEST_MAIN
