#include "kernels/cuda/simt_emulated.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#include <algorithm>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "error.h"
#include "kernels/cuda/fiber.h"
#include "kernels/cuda/shared_view.h"

namespace livekv::simt::emulated {

namespace {

constexpr size_t guard_bytes = 4 << 10;  // behind the shared memory; must stay as it is
constexpr uint8_t never_written = 0xa5;

// Threads that wait for each other: a block, or a warp.
struct group {
    int32_t size = 0;
    std::vector<int32_t> waiting;
    site meeting;                   // of those that wait
    std::vector<uint8_t> slots[2];  // [size, slot_bytes], used in turns: who is late may still read the others
};

// A cp.async that has not been waited for.
struct pending_copy {
    void * to;
    const void * from;
    bool valid;
};

struct fiber {
    place at;
    std::vector<pending_copy> copies;
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
    size_t shared_bytes = 0;
    shared_view view;  // used when writes are late
    const std::function<void()> * body = nullptr;
    int32_t current = 0;
    std::exception_ptr failure;
};

machine * now = nullptr;
order wanted = order::forward;
bool late_writes = false;
bool in_use = false;
std::mt19937 rng(1);

fiber & current() {
    return now->fibers[static_cast<size_t>(now->current)];
}

[[noreturn]] void refuse(const site & where, const char * what) {
    fail("internal error: a kernel, ", where.file_name(), ":", where.line(), ": ", what);
}

void enter() {
    try {
        (*now->body)();
        LIVEKV_ASSERT(current().copies.empty());
        if (late_writes) {
            now->view.leave(now->current);
        }
    } catch (...) {
        now->failure = std::current_exception();
    }
    current().done = true;
    go(current().at, now->scheduler);
}

void arrive(group & g, const site & where, bool is_barrier) {
    if (late_writes) {
        now->view.leave(now->current);
    }
    if (g.waiting.empty()) {
        g.meeting = where;
    } else if (g.meeting.line() != where.line() || std::strcmp(g.meeting.file_name(), where.file_name()) != 0) {
        refuse(where, ("others wait at line " + std::to_string(g.meeting.line())).c_str());
    }
    g.waiting.push_back(now->current);
    if (static_cast<int32_t>(g.waiting.size()) == g.size) {
        if (late_writes && is_barrier) {
            now->view.publish(g.waiting);
        }
        if (wanted == order::backward) {
            std::reverse(g.waiting.begin(), g.waiting.end());
        } else if (wanted == order::shuffled) {
            std::shuffle(g.waiting.begin(), g.waiting.end(), rng);
        }
        const bool at_once = wanted == order::warp_by_warp || wanted == order::last_warp_first;
        now->ready.insert(at_once ? now->ready.begin() : now->ready.end(), g.waiting.begin(), g.waiting.end());
        g.waiting.clear();
    }
    go(current().at, now->scheduler);
    if (late_writes) {
        now->view.enter(now->current);
    }
}

// Where p lies from the start of the shared memory; SIZE_MAX when it is none of it, nor right behind it.
size_t offset_in_shared(const void * p) {
    const auto at = reinterpret_cast<uintptr_t>(p);
    const auto base = reinterpret_cast<uintptr_t>(now->shared_base);
    return at >= base && at < base + now->shared_bytes + guard_bytes ? at - base : SIZE_MAX;
}

// What lies around the shared memory asked for may be neither read (AddressSanitizer sees that) nor written.
void guard_shared(machine & m, [[maybe_unused]] bool on) {
#if defined(__SANITIZE_ADDRESS__)
    if (on) {
        __asan_poison_memory_region(m.shared_base + m.shared_bytes, guard_bytes);
    } else {
        __asan_unpoison_memory_region(m.shared_base + m.shared_bytes, guard_bytes);
    }
#else
    const uint8_t * const guard = m.shared_base + m.shared_bytes;
    if (std::any_of(guard, guard + guard_bytes, [](uint8_t x) { return x != never_written; })) {
        fail("internal error: a kernel writes behind its ", m.shared_bytes, " bytes of shared memory");
    }
#endif
}

void run_block(machine & m, int32_t n) {
    m.ready.clear();
    for (int32_t i = 0; i < n; ++i) {
        fiber & f = m.fibers[static_cast<size_t>(i)];
        f.done = false;
        f.n_exchanges = 0;
        f.copies.clear();
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

void set_late_writes(bool on) {
    late_writes = on;
}

void set_stands_in(bool on) {
    in_use = on;
}

bool stands_in() {
    return in_use;
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
void sync(const site & where) {
    arrive(now->block_group, where, true);
}

void check_access(const void * p, size_t n, size_t alignment, const site & where) {
    if (reinterpret_cast<uintptr_t>(p) % alignment != 0) {
        refuse(where, "an access that is not aligned");
    }
    if (const size_t at = offset_in_shared(p); at != SIZE_MAX && at + n > now->shared_bytes) {
        refuse(where, "an access behind the shared memory");
    }
}

void check_global(const void * p, size_t n, const site & where) {
    check_access(p, n, n, where);
    if (offset_in_shared(p) != SIZE_MAX) {
        refuse(where, "an address in shared memory that should be in global");
    }
}

void check_shared(const void * p, size_t n, const site & where) {
    check_access(p, n, n, where);
    if (offset_in_shared(p) == SIZE_MAX) {
        refuse(where, "an address that is not in shared memory");
    }
}

void copy_later(void * to, const void * from, bool valid, const site & where) {
    check_shared(to, 16, where);
    check_global(from, 16, where);
    std::memset(to, 0xff, 16);  // no number, until it is there
    current().copies.push_back({to, from, valid});
}

void wait_copies() {
    for (const pending_copy & c : current().copies) {
        c.valid ? std::memcpy(c.to, c.from, 16) : std::memset(c.to, 0, 16);
    }
    current().copies.clear();
}

const uint8_t * exchange(const void * bytes, size_t n, const site & where, bool is_barrier) {
    fiber & f = current();
    group & g = now->warps[static_cast<size_t>(now->current / 32)];
    std::vector<uint8_t> & slots = g.slots[f.n_exchanges++ % 2];
    std::memcpy(slots.data() + static_cast<size_t>(now->current % 32) * slot_bytes, bytes, n);
    arrive(g, where, is_barrier);
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
    m.shared_bytes = shared_bytes;
    m.shared_memory.resize(shared_bytes + 128 + guard_bytes);
    m.shared_base = m.shared_memory.data() + (128 - reinterpret_cast<uintptr_t>(m.shared_memory.data()) % 128) % 128;
    m.body = &body;
    now = &m;
    try {
        for (m.block_index.z = 0; m.block_index.z < grid.z; ++m.block_index.z) {
            for (m.block_index.y = 0; m.block_index.y < grid.y; ++m.block_index.y) {
                for (m.block_index.x = 0; m.block_index.x < grid.x; ++m.block_index.x) {
                    std::fill(m.shared_memory.begin(), m.shared_memory.end(), never_written);
                    guard_shared(m, true);
                    m.view.start(m.shared_base, late_writes ? shared_bytes : 0, m.fibers.size());
                    run_block(m, n);
                    guard_shared(m, false);
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
