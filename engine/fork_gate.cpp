#include "fork_gate.h"

#include <pthread.h>

#include <algorithm>
#include <condition_variable>
#include <memory>
#include <utility>
#include <vector>

#include "error.h"

namespace livekv::fork_gate {

namespace {

struct gate {
    std::mutex mutex;  // also of what is watched
    std::unique_ptr<std::condition_variable> changed = std::make_unique<std::condition_variable>();
    int n_inside = 0;
    int n_forks = 0;  // waiting, or under way
    std::vector<handlers> watched;
    std::vector<std::mutex *> held;
};

thread_local int depth = 0;  // of this thread's insides

gate & the_gate();

void before_fork() {
    gate & g = the_gate();
    std::unique_lock lock(g.mutex);
    ++g.n_forks;
    g.changed->wait(lock, [&] { return g.n_inside == (depth > 0 ? 1 : 0); });
    for (const handlers & h : g.watched) {
        h.before();
    }
    for (std::mutex * m : g.held) {
        m->lock();
    }
    lock.release();  // until the fork is done
}

void release_held(gate & g) {
    for (std::mutex * m : g.held) {
        m->unlock();
    }
}

void after_fork_in_parent() {
    gate & g = the_gate();
    release_held(g);
    for (const handlers & h : g.watched) {
        h.in_parent();
    }
    --g.n_forks;
    g.mutex.unlock();
    g.changed->notify_all();
}

void after_fork_in_child() {
    gate & g = the_gate();
    release_held(g);
    for (const handlers & h : g.watched) {
        h.in_child();
    }
    g.n_forks = 0;
    static_cast<void>(g.changed.release());  // the parent's threads wait for it, which cannot be undone
    g.changed = std::make_unique<std::condition_variable>();
    g.mutex.unlock();
}

// Never destroyed: threads may outlast whatever is.
gate & the_gate() {
    static gate * const g = [] {
        auto made = std::make_unique<gate>();
        if (::pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) != 0) {
            fail("not enough memory for threads");
        }
        return made.release();
    }();
    return *g;
}

void enter(gate & g) {
    std::unique_lock lock(g.mutex);
    g.changed->wait(lock, [&] { return g.n_forks == 0; });
    ++g.n_inside;
}

void leave(gate & g) {
    const std::lock_guard lock(g.mutex);
    --g.n_inside;
    if (g.n_forks > 0) {  // who forks may be inside himself
        g.changed->notify_all();
    }
}

}  // namespace

inside::inside() {
    gate & g = the_gate();
    if (depth++ == 0) {
        enter(g);
    }
}

inside::~inside() {
    if (--depth == 0) {
        leave(the_gate());
    }
}

outside::outside() : depth_(std::exchange(depth, 0)) {
    if (depth_ > 0) {
        leave(the_gate());
    }
}

outside::~outside() {
    if (depth_ > 0) {
        enter(the_gate());
        depth = depth_;
    }
}

void watch(const handlers & more) {
    gate & g = the_gate();
    const std::lock_guard lock(g.mutex);
    g.watched.push_back(more);
}

void hold(std::mutex & m) {
    gate & g = the_gate();
    const std::lock_guard lock(g.mutex);
    if (std::find(g.held.begin(), g.held.end(), &m) == g.held.end()) {
        g.held.push_back(&m);
    }
}

}  // namespace livekv::fork_gate
