#include <algorithm>
#include <cmath>

#include "check.h"
#include "error.h"
#include "session/fidelity.h"
#include "tiny_sequences.h"

using namespace livekv;
using namespace tiny_sequences;

TEST(divergence_of_a_cache_from_itself_is_zero_and_grows_with_fewer_bits) {
    const auto m = tiny_model();
    const std::vector<int32_t> tokens = some_tokens(400);
    const auto measure = [&](const char * kv) {
        fidelity_params p;
        p.test = params_of(kv, 32, 128);
        p.kl_base = params_of("f16", 32, 128).kv;
        return measure_fidelity(m, tokens, p);
    };
    const fidelity same = measure("f16");
    CHECK_EQ(same.n_windows, 3);
    CHECK_EQ(same.n_tokens, 3 * 63);
    CHECK_EQ(same.kl->max, 0.0);
    CHECK_EQ(same.kl->same_top, 1.0);
    CHECK_EQ(same.ppl, same.kl->base_ppl);
    CHECK_EQ(same.nll.size(), same.kl->tokens.size());
    CHECK(same.nll == same.kl->base_nll);
    const fidelity q8 = measure("q8_0");
    const fidelity q4 = measure("q4_0");
    CHECK(q8.kl->mean > 0.0);
    CHECK(q4.kl->mean > 10.0 * q8.kl->mean);
    CHECK(q4.kl->median <= q4.kl->p999 && q4.kl->p999 <= q4.kl->max);
    fidelity_params too_long;
    too_long.test = params_of("f16", 32, 401);
    CHECK_ERROR(measure_fidelity(m, tokens, too_long), "one window needs 401");
}

// Both caches read in turns, pass by pass; whatever their chunks, the numbers are those of one after the other.
TEST(divergence_is_its_definition_whatever_the_chunks) {
    const auto m = tiny_model();
    const std::vector<int32_t> tokens = some_tokens(100);  // one window
    const auto logits_of = [&](const session_params & params) {
        session s(m, params);
        std::vector<float> rows;  // [50, n_vocab], of the second half
        s.eval(tokens, 50, [&](int64_t, int64_t, std::span<const float> logits) {
            rows.insert(rows.end(), logits.begin(), logits.end());
        });
        return rows;
    };
    constexpr size_t n_vocab = 259;
    const auto log_sum_exp = [](std::span<const float> row) {
        const float max = *std::max_element(row.begin(), row.end());
        double sum = 0.0;
        for (const float x : row) {
            sum += std::exp(static_cast<double>(x - max));
        }
        return static_cast<double>(max) + std::log(sum);
    };
    for (const int64_t chunk : {32, 64, 96, 128}) {
        for (const int64_t base_chunk : {32, 96, 128}) {
            fidelity_params p;
            p.test = params_of("livekv", chunk, 100);
            const session_params base = params_of("livekv", base_chunk, 100);
            p.kl_base = base.kv;
            int n_passes = 0;
            fidelity_callbacks callbacks;
            callbacks.on_chunk = [&] { ++n_passes; };
            const fidelity f = measure_fidelity(m, tokens, p, callbacks);
            const std::vector<float> tested = logits_of(p.test);
            const std::vector<float> from = logits_of(base);
            CHECK_EQ(f.nll.size(), 49u);
            CHECK_EQ(f.kl->tokens.size(), 49u);
            for (size_t i = 0; i < f.nll.size(); ++i) {
                const std::span<const float> q(tested.data() + i * n_vocab, n_vocab);
                const std::span<const float> b(from.data() + i * n_vocab, n_vocab);
                const size_t target = static_cast<size_t>(tokens[50 + i + 1]);
                const double q_norm = log_sum_exp(q);
                const double b_norm = log_sum_exp(b);
                double kl = 0.0;
                for (size_t t = 0; t < n_vocab; ++t) {
                    kl += std::exp(b[t] - b_norm) * ((b[t] - b_norm) - (q[t] - q_norm));
                }
                CHECK_EQ(f.kl->tokens[i], kl);
                CHECK_EQ(f.nll[i], q_norm - q[target]);
                CHECK_EQ(f.kl->base_nll[i], b_norm - b[target]);
            }
            const int64_t of_test = (100 + chunk - 1) / chunk;
            const int64_t of_base = (100 + base_chunk - 1) / base_chunk;
            CHECK(n_passes >= of_test + of_base - 1 && n_passes <= of_test + of_base);
            session full(m, p.test);
            full.prefill(tokens);
            CHECK(full.kv_bits_per_value() == f.bits_per_value);  // a window's last token is read too
        }
    }
}

TEST(perplexity_of_a_uniform_model_is_its_vocabulary) {
    tiny_spec spec;
    spec.zeroed_tensor = "output.weight";  // equal logits: every token costs ln(n_vocab)
    const auto m = tiny_model(spec);
    fidelity_params p;
    p.test = params_of("f16", 32, 100);
    const fidelity f = measure_fidelity(m, some_tokens(200), p);
    CHECK(std::fabs(f.ppl - 259.0) < 1e-3);
    CHECK(std::fabs(f.ppl_stderr) < 1e-6);
    CHECK(!f.kl);
}

TEST_MAIN
