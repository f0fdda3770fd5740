// Whatever is refused memory ends in one livekv::error, and what it was done to goes on as if nothing had happened:
// allocations of every operation fail once, each in a process of its own, and then all from one on.

#include <sys/wait.h>

#include <functional>
#include <optional>

#include "check.h"
#include "engine/engine.h"
#include "error.h"
#include "failing_allocations.h"
#include "saved_sequence.h"

using namespace livekv;
using namespace tiny_sequences;

namespace {

using bits = std::vector<uint8_t>;

void append(bits & to, std::span<const float> logits) {
    const auto * first = reinterpret_cast<const uint8_t *>(logits.data());
    to.insert(to.end(), first, first + logits.size_bytes());
}

session_params params(const std::string & kv, int32_t n_threads) {
    session_params p = params_of(kv, 32, 400);
    p.n_threads = n_threads;
    if (kv == "livekv") {
        p.kv.warmup_chunks = 1;
    }
    return p;
}

// What an operation works on: a model's file, an engine that knows prompts, two sequences of it, a saved one.
struct scene {
    scene(const std::string & kv, int32_t n_threads) : p(params(kv, n_threads)) {
        write_tiny_model({}, model_file.path());
        m = model::load(model_file.path());
        e = std::make_shared<engine>(m, n_threads, size_t(1) << 20);
        a = std::make_unique<session>(e, p);
        b = std::make_unique<session>(e, p);
        a->prefill(tokens);
        b->prefill(std::span(tokens).first(50));
        if (kv == "livekv") {
            a->save(saved_file.path());
        }
    }

    // The sequences as they are, and what follows from them.
    bits state() const {
        bits all;
        for (const session * s : std::initializer_list<const session *>{a.get(), b.get(), c ? &*c : nullptr}) {
            if (!s) {
                continue;
            }
            const std::unique_ptr<session> next = s->fork();
            append(all, next->append(7));
            append(all, next->prefill(std::span(tokens).first(40)));
            if (p.kv.policy == "livekv") {
                const temporary_file file(".kv");
                next->save(file.path());
                const bits bytes = kv_saved::read_bytes(file.path());
                all.insert(all.end(), bytes.begin(), bytes.end());
            }
        }
        return all;
    }

    session_params p;
    temporary_file model_file{".gguf"};
    temporary_file saved_file{".kv"};
    std::vector<int32_t> tokens = some_tokens(90);
    std::vector<int32_t> more = some_tokens(70, 9);
    std::shared_ptr<const model> m;
    std::shared_ptr<engine> e;
    std::unique_ptr<session> a;
    std::unique_ptr<session> b;
    std::optional<session> c;
};

struct operation {
    const char * name;
    bool livekv_alone;
    std::function<void(scene &)> run;     // the first time, and again when it failed
    std::function<bool(scene &)> intact;  // after a failure; null: state() is what it was
};

void prefill_rest(session & s, const std::vector<int32_t> & tokens, int64_t n_before) {
    s.prefill(std::span(tokens).subspan(static_cast<size_t>(s.n_tokens() - n_before)));
}

const std::vector<operation> & operations() {
    static const std::vector<operation> all = {
        {"loading a model", false, [](scene & x) { x.c.emplace(model::load(x.model_file.path()), x.p); }, nullptr},
        {"a new sequence", false, [](scene & x) { x.c.emplace(x.e, x.p); }, nullptr},
        // What was read before the failure stays; the rest can follow.
        {"prefill", false, [](scene & x) { prefill_rest(*x.a, x.more, 90); },
         [](scene & x) { return x.a->n_tokens() >= 90 && x.a->n_tokens() < 160 && x.b->n_tokens() == 50; }},
        {"decoding", false,
         [](scene & x) {
             for (size_t i = static_cast<size_t>(x.a->n_tokens() - 90); i < 8; ++i) {
                 x.a->append(x.more[i]);
             }
         },
         [](scene & x) { return x.a->n_tokens() >= 90 && x.a->n_tokens() < 98; }},
        {"a known beginning", true,
         [](scene & x) {
             if (!x.c) {
                 x.c.emplace(x.e, x.p);
             }
             prefill_rest(*x.c, x.tokens, 0);
         },
         [](scene & x) { return !x.c || x.c->n_tokens() < 90; }},
        {"a step of two", false,
         [](scene & x) {
             session::share shares[] = {{x.a.get(), std::span(x.more).first(20), 1},
                                        {x.b.get(), std::span(x.more).first(14), 2}};
             for (session::share & s : shares) {
                 s.tokens =
                     s.tokens.first(static_cast<size_t>(s.who->pass_size(static_cast<int64_t>(s.tokens.size()))));
             }
             session::pass(*x.e, shares);
         },
         nullptr},
        {"fork", false, [](scene & x) { x.b = x.a->fork(); }, nullptr},
        {"trim within a chunk", false, [](scene & x) { x.a->trim(45); }, nullptr},
        {"trim to nothing", false,
         [](scene & x) {
             x.a->reset();
             x.a->prefill(std::span(x.tokens).first(10));
         },
         [](scene & x) { return x.a->n_tokens() == 0 || x.a->n_tokens() == 90; }},
        {"a shift of the context", false, [](scene & x) { x.a->make_room(400 - x.a->n_tokens() + 10, 10); }, nullptr},
        {"saving", true, [](scene & x) { x.b->save(x.saved_file.path()); }, nullptr},
        {"restoring", true,
         [](scene & x) {
             if (!x.c) {
                 x.c.emplace(x.e, x.p);
             }
             x.c->load(x.saved_file.path());
         },
         [](scene & x) { return !x.c || x.c->n_tokens() == 0; }},
        {"a report", true,
         [](scene & x) {
             x.a->cache().report();
             x.a->cache().dump(0);
         },
         nullptr},
    };
    return all;
}

enum outcome { no_failure, survived, other_exception, not_intact, other_result, failed_again };

const char * const outcome_names[] = {"no failure",    "survived",       "an exception that is no livekv::error",
                                      "not as before", "another result", "a failure without cause"};

// Runs in a child process and returns its exit status; 1000 + signal when one ended it.
int in_child(const std::function<int()> & run) {
    std::fflush(stdout);
    const pid_t pid = ::fork();
    if (pid == 0) {
        ::_exit(run());
    }
    int status = 0;
    ::waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

// The operation with its n-th allocation, or all from it on, refused.
int attempt(scene & x, const operation & op, const bits & before, const bits & expected, int64_t n, bool all_after) {
    outcome result = survived;
    bool thrown = true;
    allocations::fail_at(n, all_after);
    try {
        op.run(x);
        thrown = false;
    } catch (const error &) {
    } catch (const std::bad_alloc &) {  // a message needs memory too
        result = all_after ? survived : other_exception;
    } catch (...) {
        result = other_exception;
    }
    if (allocations::stop() == 0) {
        return no_failure;
    }
    if (result != survived) {
        return result;
    }
    try {
        if (thrown) {
            if (op.intact ? !op.intact(x) : x.state() != before) {
                return not_intact;
            }
            op.run(x);
        }
        return x.state() == expected ? survived : other_result;
    } catch (...) {
        return failed_again;
    }
}

// stride: of the allocations that are refused; each of them where LIVEKV_EVERY_ALLOCATION is set.
void fail_everywhere(const std::string & kv, int32_t n_threads, int64_t stride, bool all_after) {
    if (!allocations::can_fail) {
        SKIP("a sanitizer has an allocator of its own");
    }
    if (std::getenv("LIVEKV_EVERY_ALLOCATION")) {
        stride = 1;
    }
    for (const operation & op : operations()) {
        if (op.livekv_alone && kv != "livekv") {
            continue;
        }
        bits expected;
        {
            scene undisturbed(kv, n_threads);
            undisturbed.state();
            op.run(undisturbed);
            expected = undisturbed.state();
        }
        scene ready(kv, n_threads);
        const bits before = ready.state();
        int64_t n = 0;
        int n_reported = 0;
        int status = survived;
        for (; status != no_failure && n < 20000 && n_reported < 10; n += stride) {
            status = in_child([&] { return attempt(ready, op, before, expected, n, all_after); });
            if (status > survived) {
                ++n_reported;
                check::report(__FILE__, __LINE__,
                              std::string(op.name) + ", " + kv + ", " + std::to_string(n_threads) +
                                  " threads, allocation " + std::to_string(n) + (all_after ? " and all after it" : "") +
                                  ": " +
                                  (status >= 1000 ? "signal " + std::to_string(status - 1000) : outcome_names[status]));
            }
        }
        std::printf("  %-20s %-7s %d threads: %lld allocations\n", op.name, kv.c_str(), n_threads,
                    static_cast<long long>(n - stride));
        CHECK(status == no_failure);
    }
}

}  // namespace

TEST(an_allocation_fails_once_livekv) {
    fail_everywhere("livekv", 1, 5, false);
}
TEST(an_allocation_fails_once_f16) {
    fail_everywhere("f16", 1, 7, false);
}
TEST(an_allocation_fails_once_q8_0) {
    fail_everywhere("q8_0", 1, 7, false);
}
TEST(an_allocation_fails_once_two_threads) {
    fail_everywhere("livekv", 2, 13, false);
}
TEST(nothing_is_granted_from_an_allocation_on_livekv) {
    fail_everywhere("livekv", 1, 13, true);
}
TEST(nothing_is_granted_from_an_allocation_on_f16) {
    fail_everywhere("f16", 1, 7, true);
}
TEST(nothing_is_granted_from_an_allocation_on_q8_0) {
    fail_everywhere("q8_0", 1, 7, true);
}

// ggml's reader of GGUF files loses the keys it had read; all else goes back.
TEST(a_load_that_failed_leaves_nothing_behind) {
    if (!allocations::can_fail) {
        SKIP("a sanitizer has an allocator of its own");
    }
    const temporary_file path(".gguf");
    write_tiny_model({}, path.path());
    const auto load = [&] { session(model::load(path.path()), params("livekv", 1)); };
    load();  // what is made once
    constexpr int64_t keys = 64 << 10;
    int64_t n = 0;
    int n_lost = 0;
    for (bool failed = true; failed; ++n) {
        allocations::n_bytes = 0;
        allocations::counts_bytes = true;
        allocations::fail_at(n);
        try {
            load();
        } catch (const std::exception &) {  // of the options' copies, too
        }
        failed = allocations::stop() > 0;
        allocations::counts_bytes = false;
        n_lost += allocations::n_bytes > 0;
        if (allocations::n_bytes > keys) {
            check::report(
                __FILE__, __LINE__,
                "allocation " + std::to_string(n) + ": " + std::to_string(allocations::n_bytes) + " bytes are lost");
        }
    }
    std::printf("  %lld allocations, after %d of which bytes were lost\n", static_cast<long long>(n), n_lost);
    CHECK(n > 500);
}

TEST_MAIN
