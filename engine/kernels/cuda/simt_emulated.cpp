#include "kernels/cuda/simt_emulated.h"

#if !defined(__x86_64__) || defined(__SANITIZE_ADDRESS__)
#define LIVEKV_UCONTEXT
#include <ucontext.h>
#endif

#include <algorithm>
#include <deque>
#include <exception>
#include <memory>
#include <random>
#include <vector>

#include "error.h"

namespace livekv::simt::emulated {

namespace {

constexpr size_t stack_bytes = 64 << 10;

// Where a stack of its own was left.
#if defined(LIVEKV_UCONTEXT)

struct place {
    ucontext_t context;

    void start(uint8_t * stack, void (*entry)()) {
        getcontext(&context);
        context.uc_stack.ss_sp = stack;
        context.uc_stack.ss_size = stack_bytes;
        context.uc_link = nullptr;
        makecontext(&context, entry, 0);
    }
};

void go(place & from, place & to) {
    swapcontext(&from.context, &to.context);
}

#else

// swapcontext asks the system for the signal mask each time, half of all the time there is; this does not.
struct place {
    void * top = nullptr;

    void start(uint8_t * stack, void (*entry)()) {
        auto ** at = reinterpret_cast<void **>(stack + stack_bytes - 64);  // a multiple of 16, as the system wants it
        *--at = nullptr;                                                   // entry does not return
        *--at = reinterpret_cast<void *>(entry);
        for (int32_t i = 0; i < 6; ++i) {
            *--at = nullptr;
        }
        top = at;
    }
};

[[gnu::naked, gnu::noinline]] void switch_stacks(void ** /* from, in rdi */, void * /* to, in rsi */) {
    asm("pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
        "movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
        "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret");
}

void go(place & from, place & to) {
    switch_stacks(&from.top, to.top);
}

#endif

// Threads that wait for each other: a block, or a warp.
struct group {
    int32_t size = 0;
    std::vector<int32_t> waiting;
    std::vector<uint8_t> slots[2];  // [size, slot_bytes], used in turns: who is late may still read the others
};

struct fiber {
    place at;
    std::unique_ptr<uint8_t[]> stack;
    bool done = false;
    uint32_t n_exchanges = 0;
};

struct machine {
    place scheduler;
    std::vector<fiber> fibers;
    std::deque<int32_t> ready;
    std::vector<group> warps;
    group block_group;
    dim block_index;
    std::vector<uint8_t> shared_memory;
    uint8_t * shared_base = nullptr;
    const std::function<void()> * body = nullptr;
    int32_t current = 0;
    std::exception_ptr failure;
};

machine * now = nullptr;
order wanted = order::forward;
std::mt19937 rng(1);

void enter() {
    try {
        (*now->body)();
    } catch (...) {
        now->failure = std::current_exception();
    }
    now->fibers[static_cast<size_t>(now->current)].done = true;
    go(now->fibers[static_cast<size_t>(now->current)].at, now->scheduler);
}

void arrive(group & g) {
    g.waiting.push_back(now->current);
    if (static_cast<int32_t>(g.waiting.size()) == g.size) {
        if (wanted == order::backward) {
            std::reverse(g.waiting.begin(), g.waiting.end());
        } else if (wanted == order::shuffled) {
            std::shuffle(g.waiting.begin(), g.waiting.end(), rng);
        }
        const bool at_once = wanted == order::warp_by_warp || wanted == order::last_warp_first;
        now->ready.insert(at_once ? now->ready.begin() : now->ready.end(), g.waiting.begin(), g.waiting.end());
        g.waiting.clear();
    }
    go(now->fibers[static_cast<size_t>(now->current)].at, now->scheduler);
}

void run_block(machine & m, int32_t n) {
    m.ready.clear();
    for (int32_t i = 0; i < n; ++i) {
        fiber & f = m.fibers[static_cast<size_t>(i)];
        f.done = false;
        f.n_exchanges = 0;
        f.at.start(f.stack.get(), enter);
        wanted == order::backward || wanted == order::last_warp_first ? m.ready.push_front(i) : m.ready.push_back(i);
    }
    int32_t n_done = 0;
    while (!m.ready.empty()) {
        m.current = m.ready.front();
        m.ready.pop_front();
        fiber & f = m.fibers[static_cast<size_t>(m.current)];
        go(m.scheduler, f.at);
        n_done += f.done;
        if (m.failure) {
            std::rethrow_exception(m.failure);
        }
    }
    if (n_done != n) {
        fail("internal error: threads of a kernel wait for each other: not all reach the same barrier");
    }
}

}  // namespace

void set_order(order o) {
    wanted = o;
}

int32_t thread() {
    return now->current;
}
int32_t n_threads() {
    return static_cast<int32_t>(now->fibers.size());
}
dim block() {
    return now->block_index;
}
uint8_t * shared() {
    return now->shared_base;
}
void sync() {
    arrive(now->block_group);
}

const uint8_t * exchange(const void * bytes, size_t n) {
    fiber & f = now->fibers[static_cast<size_t>(now->current)];
    group & g = now->warps[static_cast<size_t>(now->current / 32)];
    std::vector<uint8_t> & slots = g.slots[f.n_exchanges++ % 2];
    std::memcpy(slots.data() + static_cast<size_t>(now->current % 32) * slot_bytes, bytes, n);
    arrive(g);
    return slots.data();
}

void run(dim grid, int32_t n, size_t shared_bytes, const std::function<void()> & body) {
    LIVEKV_ASSERT(now == nullptr && n % 32 == 0);
    machine m;
    m.fibers.resize(static_cast<size_t>(n));
    for (fiber & f : m.fibers) {
        f.stack = std::make_unique_for_overwrite<uint8_t[]>(stack_bytes);
    }
    m.warps.resize(static_cast<size_t>(n / 32));
    for (group & g : m.warps) {
        g.size = 32;
        g.slots[0].resize(32 * slot_bytes);
        g.slots[1].resize(32 * slot_bytes);
    }
    m.block_group.size = n;
    m.shared_memory.resize(shared_bytes + 128);
    m.shared_base = m.shared_memory.data() + (128 - reinterpret_cast<uintptr_t>(m.shared_memory.data()) % 128) % 128;
    m.body = &body;
    now = &m;
    try {
        for (m.block_index.z = 0; m.block_index.z < grid.z; ++m.block_index.z) {
            for (m.block_index.y = 0; m.block_index.y < grid.y; ++m.block_index.y) {
                for (m.block_index.x = 0; m.block_index.x < grid.x; ++m.block_index.x) {
                    std::fill(m.shared_memory.begin(), m.shared_memory.end(), uint8_t{0xa5});
                    run_block(m, n);
                }
            }
        }
    } catch (...) {
        now = nullptr;
        throw;
    }
    now = nullptr;
}

}  // namespace livekv::simt::emulated
