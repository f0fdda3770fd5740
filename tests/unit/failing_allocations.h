#pragma once

// Allocations that fail when a test says so, and how much was allocated. Replaces operator new and C's allocation
// functions for the whole program: included by the one source file of a test. Not under sanitizers, which have
// allocators of their own.

#include <malloc.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "error.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FAILING_ALLOCATIONS 0
#else
#define FAILING_ALLOCATIONS 1
#endif

namespace allocations {

constexpr bool can_fail = FAILING_ALLOCATIONS;

inline std::atomic<int64_t> n_left{-1};     // until one fails; negative: none will
inline std::atomic<bool> all_after{false};  // and all that follow it
inline std::atomic<int64_t> n_failed{0};
inline std::atomic<bool> counts_bytes{false};
inline std::atomic<bool> of_new_alone{false};  // and not what C functions were asked for
inline std::atomic<int64_t> n_bytes{0};        // allocated and not freed, while counted
inline std::atomic<int64_t> most_bytes{0};

// The n-th allocation from now fails, n from 0 on, and those after it when it says so, until stop().
inline void fail_at(int64_t n, bool and_all_after = false) {
    n_failed = 0;
    all_after = and_all_after;
    n_left = n;
}

// How many failed.
inline int64_t stop() {
    n_left = -1;
    all_after = false;
    return n_failed;
}

// Whether work ends in a livekv::error where its n-th allocation fails.
template <typename F>
bool fails_at(int64_t n, F && work) {
    bool failed = false;
    fail_at(n);
    try {
        work();
    } catch (const livekv::error &) {
        failed = true;
    }
    stop();
    return failed;
}

inline bool this_one_fails() {
    int64_t n = n_left;
    while (n > 0 && !n_left.compare_exchange_weak(n, n - 1)) {
    }
    if (n != 0) {
        return false;
    }
    if (!all_after) {
        n_left = -1;
    }
    ++n_failed;
    return true;
}

inline void * counted(void * p, bool by_new = false) {
    if (p && counts_bytes && of_new_alone == by_new) {
        const int64_t now = n_bytes += static_cast<int64_t>(malloc_usable_size(p));
        for (int64_t most = most_bytes; now > most && !most_bytes.compare_exchange_weak(most, now);) {
        }
    }
    return p;
}

inline void uncounted(void * p, bool by_new = false) {
    if (p && counts_bytes && of_new_alone == by_new) {
        n_bytes -= static_cast<int64_t>(malloc_usable_size(p));
    }
}

}  // namespace allocations

#if FAILING_ALLOCATIONS

#pragma GCC diagnostic ignored "-Wmismatched-new-delete"  // new below is malloc, and so free is its delete

extern "C" {

void * __libc_malloc(size_t n);
void * __libc_calloc(size_t n, size_t each);
void * __libc_realloc(void * p, size_t n);
void * __libc_memalign(size_t alignment, size_t n);
void __libc_free(void * p);

void * malloc(size_t n) {
    if (allocations::this_one_fails()) {
        errno = ENOMEM;
        return nullptr;
    }
    return allocations::counted(__libc_malloc(n));
}
void * calloc(size_t n, size_t each) {
    if (allocations::this_one_fails()) {
        errno = ENOMEM;
        return nullptr;
    }
    return allocations::counted(__libc_calloc(n, each));
}
void * realloc(void * p, size_t n) {
    if (allocations::this_one_fails()) {
        errno = ENOMEM;
        return nullptr;
    }
    allocations::uncounted(p);
    return allocations::counted(__libc_realloc(p, n));
}
void * aligned_alloc(size_t alignment, size_t n) {
    if (allocations::this_one_fails()) {
        errno = ENOMEM;
        return nullptr;
    }
    return allocations::counted(__libc_memalign(alignment, n));
}
int posix_memalign(void ** p, size_t alignment, size_t n) {
    if (allocations::this_one_fails()) {
        return ENOMEM;
    }
    *p = allocations::counted(__libc_memalign(alignment, n));
    return *p ? 0 : ENOMEM;
}
void free(void * p) {
    allocations::uncounted(p);
    __libc_free(p);
}
void * mmap(void * at, size_t n, int access, int flags, int fd, off_t offset) {
    if (allocations::this_one_fails()) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return reinterpret_cast<void *>(::syscall(SYS_mmap, at, n, access, flags, fd, offset));
}

}  // extern "C"

void * operator new(size_t n) {
    if (void * p = std::malloc(n ? n : 1)) {
        return allocations::counted(p, true);
    }
    throw std::bad_alloc();
}
void * operator new(size_t n, std::align_val_t to) {
    const size_t step = static_cast<size_t>(to);
    if (void * p = std::aligned_alloc(step, (n + step - 1) / step * step)) {
        return allocations::counted(p, true);
    }
    throw std::bad_alloc();
}
void operator delete(void * p) noexcept {
    allocations::uncounted(p, true);
    std::free(p);
}
void operator delete(void * p, size_t) noexcept {
    allocations::uncounted(p, true);
    std::free(p);
}
void operator delete(void * p, std::align_val_t) noexcept {
    allocations::uncounted(p, true);
    std::free(p);
}
void operator delete(void * p, size_t, std::align_val_t) noexcept {
    allocations::uncounted(p, true);
    std::free(p);
}

#endif
