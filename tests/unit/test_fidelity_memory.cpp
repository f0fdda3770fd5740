// A divergence is measured with a pass's logits in memory, not a window's.

#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "check.h"
#include "session/fidelity.h"
#include "tiny_sequences.h"

using namespace livekv;
using namespace tiny_sequences;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)

TEST(memory_does_not_grow_with_the_window) {
    SKIP("a sanitizer has an allocator of its own");
}

#else

namespace {

std::atomic<size_t> n_bytes{0};  // allocated and not freed
std::atomic<size_t> most_bytes{0};

void * counted(void * p) {
    if (!p) {
        throw std::bad_alloc();
    }
    const size_t now = n_bytes += malloc_usable_size(p);
    for (size_t most = most_bytes; now > most && !most_bytes.compare_exchange_weak(most, now);) {
    }
    return p;
}

void release(void * p) {
    n_bytes -= malloc_usable_size(p);
    std::free(p);
}

}  // namespace

void * operator new(size_t n) {
    return counted(std::malloc(n));
}
void * operator new(size_t n, std::align_val_t to) {
    const size_t step = static_cast<size_t>(to);
    return counted(std::aligned_alloc(step, (n + step - 1) / step * step));
}
void operator delete(void * p) noexcept {
    release(p);
}
void operator delete(void * p, size_t) noexcept {
    release(p);
}
void operator delete(void * p, std::align_val_t) noexcept {
    release(p);
}
void operator delete(void * p, size_t, std::align_val_t) noexcept {
    release(p);
}

TEST(memory_does_not_grow_with_the_window) {
    tiny_spec spec;
    spec.n_vocab = 4000;
    const auto m = tiny_model(spec);
    constexpr int64_t n_ctx = 1024;
    constexpr int64_t chunk = 32;
    fidelity_params p;
    p.test = params_of("livekv", chunk, n_ctx);
    p.kl_base = params_of("f16", chunk, n_ctx).kv;
    const std::vector<int32_t> tokens = some_tokens(n_ctx);
    const size_t before = n_bytes;
    most_bytes = before;
    measure_fidelity(m, tokens, p);
    const size_t row = spec.n_vocab * sizeof(float);
    const size_t of_a_pass = 2 * chunk * row;  // of two caches
    const size_t taken = most_bytes - before;
    std::printf("  %zu bytes; the logits of a pass have %zu, of half a window %zu\n", taken, of_a_pass,
                n_ctx / 2 * row);
    CHECK(taken > of_a_pass);
    CHECK(taken < 4 * of_a_pass);  // with the caches' own, 1 MiB; a half window's logits would be 8 MiB
}

#endif

TEST_MAIN
