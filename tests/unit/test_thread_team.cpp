// The threads sessions share: after fork, with several sessions, on one CPU, and when there are none to be had.

#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "check.h"
#include "error.h"
#include "forked.h"
#include "session/session.h"
#include "tiny_sequences.h"

using namespace forked;
using namespace livekv;
using namespace tiny_sequences;

namespace {

std::atomic<int64_t> n_yields{0};

size_t n_threads_now() {
    size_t n = 0;
    for ([[maybe_unused]] const auto & entry : std::filesystem::directory_iterator("/proc/self/task")) {
        ++n;
    }
    return n;
}

}  // namespace

extern "C" int sched_yield() noexcept {
    ++n_yields;
    return static_cast<int>(::syscall(SYS_sched_yield));
}

TEST(a_child_of_fork_computes_with_sessions_from_before_and_new_ones) {
    require_fork();
    const auto m = tiny_model();
    const session_params p = params_of("livekv", 32);
    const std::vector<int32_t> tokens = some_tokens(50);
    session before(m, p);
    const std::vector<float> first = last_logits(before, tokens);
    session idle(m, p);
    last_logits(idle, tokens);  // two sessions, one of which lost the threads to the other
    const std::vector<float> expected = decode(*before.fork(), first, 5);
    const int status = in_child([&] {
        session fresh(m, p);
        const bool same =
            same_bits(last_logits(fresh, tokens), first) && same_bits(decode(*before.fork(), first, 5), expected);
        const int grandchild = in_child([&] { return same_bits(decode(*idle.fork(), first, 5), expected) ? 0 : 1; });
        return same && grandchild == 0 ? 0 : 1;
    });
    CHECK_EQ(status, 0);
    CHECK(same_bits(decode(before, first, 5), expected));  // and the parent goes on
}

TEST(a_fork_while_another_thread_computes) {
    require_fork_beside_threads();
    const auto m = tiny_model();
    const session_params p = params_of("livekv", 32);
    const std::vector<int32_t> tokens = some_tokens(50);
    session here(m, p);
    const std::vector<float> expected = last_logits(here, tokens);
    const auto s = std::make_shared<session>(m, params_of("f16", 32));
    s->prefill(tokens);
    const meanwhile other([&] {  // the same graph again: nothing is allocated
        s->prefill(std::span(tokens).first(1));
        s->trim(50);
    });
    for (int i = 0; i < 20; ++i) {
        CHECK_EQ(in_child([&] {
                     here.reset();
                     return same_bits(last_logits(here, tokens), expected) ? 0 : 1;
                 }),
                 0);
    }
}

TEST(a_fork_while_another_thread_computes_with_the_same_engine) {
    require_fork_beside_threads();
    for (const int32_t n_threads : {1, 2}) {
        const auto shared = std::make_shared<engine>(tiny_model(), n_threads);
        const session_params p = params_of("livekv", 32);
        const std::vector<int32_t> tokens = some_tokens(50);
        session here(shared, p);
        const std::vector<float> expected = last_logits(here, tokens);
        const meanwhile other([s = std::make_shared<session>(shared, p), &tokens] {
            s->prefill(tokens);
            s->reset();
        });
        for (int i = 0; i < 20; ++i) {
            CHECK_EQ(in_child([&] {
                         session fresh(shared, p);
                         return same_bits(last_logits(fresh, tokens), expected) ? 0 : 1;
                     }),
                     0);
        }
    }
}

TEST(sessions_that_take_turns_share_threads) {
    const auto m = tiny_model();
    const session_params p = params_of("f16", 32);
    const std::vector<int32_t> tokens = some_tokens(20);
    session one(m, p);
    last_logits(one, tokens);
    const size_t n = n_threads_now();
    for (int i = 0; i < 10; ++i) {
        session more(m, p);
        last_logits(more, tokens);
        one.reset();
        last_logits(one, tokens);
    }
    CHECK_EQ(n_threads_now(), n);
}

TEST(threads_on_one_cpu_give_way_to_each_other) {
    const auto m = tiny_model();
    session_params p = params_of("f16", 32);
    p.n_threads = 3;  // new ones, which are started on the one CPU
    cpu_set_t before;
    ::sched_getaffinity(0, sizeof(before), &before);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(::sched_getcpu(), &one);
    ::sched_setaffinity(0, sizeof(one), &one);
    n_yields = 0;
    session s(m, p);
    last_logits(s, some_tokens(20));
    ::sched_setaffinity(0, sizeof(before), &before);
    CHECK(n_yields > 0);
}

TEST(threads_that_cannot_be_started_are_an_error_and_the_session_goes_on) {
    require_fork();
#if defined(__SANITIZE_ADDRESS__)
    SKIP("a sanitizer needs more addresses than the limit");
#endif
    const auto m = tiny_model();
    session_params p = params_of("f16", 32);
    p.n_threads = 400;
    const int status = in_child([&] {
        struct rlimit limit = {size_t(1) << 30, size_t(1) << 30};  // 400 stacks of 8 MiB are more
        ::setrlimit(RLIMIT_AS, &limit);
        session s(m, p);
        try {
            s.prefill(some_tokens(20));
            return 1;
        } catch (const error & problem) {
            return std::string(problem.what()).find("cannot compute with 400 threads") == 0 && s.n_tokens() == 0 ? 0
                                                                                                                 : 2;
        }
    });
    CHECK_EQ(status, 0);
}

TEST_MAIN
