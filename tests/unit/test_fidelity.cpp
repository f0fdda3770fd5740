#include "session/fidelity.h"

#include <cmath>

#include "check.h"
#include "error.h"
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
