#include "graph/thread_team.h"

#include <ggml-cpu.h>

#include <condition_variable>
#include <list>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "error.h"
#include "fork_gate.h"
#include "model/ggml_memory.h"

namespace livekv {

namespace {

struct team {
    ggml_threadpool_t threads = nullptr;
    int32_t n_threads = 0;
    ggml_backend_t user = nullptr;  // whose graph it computes, or computed last
    bool busy = false;
};

struct registry {
    std::mutex mutex;
    std::list<team> teams;
};

// Never destroyed: threads may outlast whatever is.
registry & all() {
    static registry * const r = new registry;
    return *r;
}

// A backend that loses its team puts that to sleep (ggml pauses it), so only an idle one may be taken.
void detach(team & t) {
    if (t.user) {
        ggml_backend_cpu_set_threadpool(t.user, nullptr);
        t.user = nullptr;
    }
}

// Teams lose their users before a fork and sleep, so that no backend of the child knows threads that it does not have.
void before_fork() {
    all().mutex.lock();
    for (team & t : all().teams) {
        if (!t.busy) {
            detach(t);
        }
    }
}
void after_fork_in_parent() {
    all().mutex.unlock();
}
void after_fork_in_child() {
    all().teams.clear();  // their threads are the parent's
    all().mutex.unlock();
}

// ggml ends the process when a thread cannot be started. Throws livekv::error when n threads cannot be at once.
void require_threads(int32_t n) {
    std::mutex mutex;
    std::condition_variable told;
    bool done = false;
    std::vector<std::thread> threads;
    const auto end = [&] {
        {
            const std::lock_guard lock(mutex);
            done = true;
        }
        told.notify_all();
        for (std::thread & t : threads) {
            t.join();
        }
    };
    try {
        threads.reserve(static_cast<size_t>(n));
        for (int32_t i = 0; i < n; ++i) {
            threads.emplace_back([&] {
                std::unique_lock lock(mutex);
                told.wait(lock, [&] { return done; });
            });
        }
    } catch (const std::system_error & problem) {
        end();
        fail("cannot compute with ", n + 1, " threads: ", problem.code().message(), "; use fewer (-t)");
    } catch (...) {
        end();
        throw;
    }
    end();
}

// Waiting between two graphs, as long as sampling a token takes; then they sleep (ggml's unit is 131,072 pauses).
constexpr uint32_t poll_level = 1;
constexpr size_t bytes_each_thread = 4096;  // that ggml keeps

void start(team & t, int32_t n_threads) {
    require_threads(n_threads - 1);
    ggml_threadpool_params params = ggml_threadpool_params_default(n_threads);
    params.poll = poll_level;
    const ggml_loan loan((1 << 20) + bytes_each_thread * static_cast<size_t>(n_threads));
    t.threads = ggml_threadpool_new(&params);
    t.n_threads = n_threads;
    if (loan.taken()) {
        ggml_threadpool_free(t.threads);
        fail("not enough memory for ", n_threads, " threads");
    }
    if (!t.threads) {
        fail("cannot start ", n_threads, " threads");
    }
}

// The backend's own, or one that is idle, or a new one. Throws livekv::error.
team & find(registry & r, ggml_backend_t cpu, int32_t n_threads) {
    team * idle = nullptr;
    for (team & t : r.teams) {
        if (t.busy || t.n_threads != n_threads) {
            continue;
        }
        if (t.user == cpu) {
            return t;
        }
        idle = &t;
    }
    if (idle) {
        return *idle;
    }
    r.teams.emplace_back();
    try {
        start(r.teams.back(), n_threads);
    } catch (...) {
        r.teams.pop_back();
        throw;
    }
    return r.teams.back();
}

}  // namespace

thread_team::thread_team(ggml_backend_t cpu, int32_t n_threads) : cpu_(cpu) {
    registry & r = all();
    static const bool watched = (fork_gate::watch({before_fork, after_fork_in_parent, after_fork_in_child}), true);
    static_cast<void>(watched);
    const std::lock_guard lock(r.mutex);
    team & t = find(r, cpu, n_threads);
    if (t.user != cpu) {
        detach(t);
        ggml_backend_cpu_set_threadpool(cpu, t.threads);
        t.user = cpu;
    }
    t.busy = true;
}

thread_team::~thread_team() {
    const std::lock_guard lock(all().mutex);
    for (team & t : all().teams) {
        if (t.user == cpu_) {
            t.busy = false;
        }
    }
}

void thread_team::forget(ggml_backend_t cpu) {
    const std::lock_guard lock(all().mutex);
    for (team & t : all().teams) {
        if (t.user == cpu) {
            detach(t);
        }
    }
}

}  // namespace livekv
