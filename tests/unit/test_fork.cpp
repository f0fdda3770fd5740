// Children of fork that are made while other threads load models, make engines and write stores.

#include <chrono>

#include "chunks/chunk_store.h"
#include "fork_gate.h"
#include "forked.h"
#include "temporary_folder.h"
#include "tiny_sequences.h"

extern "C" {  // of ggml's, in no public header
void ggml_critical_section_start(void);
void ggml_critical_section_end(void);
}

using namespace forked;
using namespace livekv;
using namespace tiny_sequences;

namespace {

constexpr int n_forks = 100;

}  // namespace

TEST(a_hundred_forks_while_another_thread_loads_models_and_makes_engines) {
    require_fork_beside_threads();
    const temporary_file path(".gguf");
    write_tiny_model({}, path.path());
    const session_params p = params_of("livekv", 32);
    const std::vector<int32_t> tokens = some_tokens(10);
    const auto logits_anew = [&] {
        session s(model::load(path.path()), p);
        return last_logits(s, tokens);
    };
    const std::vector<float> expected = logits_anew();
    const meanwhile other([&] { std::make_shared<engine>(model::load(path.path()), 2); });
    for (int i = 0; i < n_forks; ++i) {
        CHECK_EQ(in_child([&] { return same_bits(logits_anew(), expected) ? 0 : 1; }), 0);
    }
    CHECK(other.n() > 10);
}

TEST(a_fork_waits_for_ggmls_lock) {
    require_fork();
    const temporary_file path(".gguf");
    write_tiny_model({}, path.path());
    model::load(path.path());
    std::atomic<bool> locked = false;
    std::thread other([&] {
        ggml_critical_section_start();
        locked = true;
        std::this_thread::sleep_for(std::chrono::milliseconds(200));
        ggml_critical_section_end();
    });
    while (!locked) {
        std::this_thread::yield();
    }
    CHECK_EQ(in_child([&] { return model::load(path.path()) ? 0 : 1; }), 0);
    other.join();
}

// limit: the smaller, the more often the folder is looked at under its lock, and known chunks may go.
void fork_beside_a_writer(uint64_t limit) {
    require_fork_beside_threads();
    const temporary_folder folder;
    const auto m = tiny_model();
    const auto store = std::make_shared<chunk_store>(folder.path(), limit);
    const auto here = std::make_shared<engine>(m, 1, 0, store);
    const auto there = std::make_shared<engine>(m, 1, 0, store);
    const session_params p = params_of("livekv", 32);
    const std::vector<int32_t> known = some_tokens(100);
    session first(here, p);
    const std::vector<float> expected = last_logits(first, known);
    uint32_t seed = 100;
    const meanwhile other([&] {
        session s(there, p);
        s.prefill(some_tokens(100, ++seed));
        store->counts();
    });
    for (int i = 0; i < n_forks; ++i) {
        CHECK_EQ(in_child([&] {
                     const int64_t n_read = store->counts().n_read;
                     session again(here, p);
                     const bool same = same_bits(last_logits(again, known), expected);
                     session fresh(here, p);
                     last_logits(fresh, some_tokens(100, 7));
                     const bool was_known = store->counts().n_read > n_read || limit < chunk_store::default_limit;
                     return same && was_known ? 0 : 1;
                 }),
                 0);
    }
    CHECK(other.n() > 10);
    CHECK(store->problem().empty());
}

TEST(a_hundred_forks_while_another_thread_writes_the_store) {
    fork_beside_a_writer(chunk_store::default_limit);
}

TEST(a_hundred_forks_while_another_thread_writes_a_store_that_is_full) {
    fork_beside_a_writer(uint64_t(1) << 20);
}

TEST(a_fork_waits_for_no_thread_that_went_outside) {
    require_fork();
    std::atomic<int> at = 0;
    std::thread other([&] {
        const fork_gate::inside outer;
        const fork_gate::inside inner;
        {
            const fork_gate::outside no_locks;
            at = 1;
            while (at == 1) {
                std::this_thread::yield();
            }
        }
        at = 3;  // inside again
    });
    while (at == 0) {
        std::this_thread::yield();
    }
    CHECK_EQ(in_child([] {
                 const fork_gate::inside in_the_child;
                 return 0;
             }),
             0);
    at = 2;
    other.join();
    CHECK_EQ(at.load(), 3);
}

TEST_MAIN
