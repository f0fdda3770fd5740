// A divergence is measured with a pass's logits in memory, not a window's.

#include "check.h"
#include "failing_allocations.h"
#include "session/fidelity.h"
#include "tiny_sequences.h"

using namespace livekv;
using namespace tiny_sequences;

TEST(memory_does_not_grow_with_the_window) {
    if (!allocations::can_fail) {
        SKIP("a sanitizer has an allocator of its own");
    }
    tiny_spec spec;
    spec.n_vocab = 4000;
    const auto m = tiny_model(spec);
    constexpr int64_t n_ctx = 1024;
    constexpr int64_t chunk = 32;
    fidelity_params p;
    p.test = params_of("livekv", chunk, n_ctx);
    p.kl_base = params_of("f16", chunk, n_ctx).kv;
    const std::vector<int32_t> tokens = some_tokens(n_ctx);
    allocations::of_new_alone = true;
    allocations::counts_bytes = true;
    measure_fidelity(m, tokens, p);
    allocations::counts_bytes = false;
    const size_t row = spec.n_vocab * sizeof(float);
    const size_t of_a_pass = 2 * chunk * row;  // of two caches
    const size_t taken = static_cast<size_t>(allocations::most_bytes);
    std::printf("  %zu bytes; the logits of a pass have %zu, of half a window %zu\n", taken, of_a_pass,
                n_ctx / 2 * row);
    CHECK(taken > of_a_pass);
    CHECK(taken < 4 * of_a_pass);  // with the caches' own, 1 MiB; a half window's logits would be 8 MiB
}

TEST_MAIN
