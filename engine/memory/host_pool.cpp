#include "memory/host_pool.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "fork_gate.h"
#include "kv/kv_block.h"
#include "memory/memory_pool.h"

#if defined(__linux__) && !defined(MADV_COLLAPSE)
#define MADV_COLLAPSE 25  // Linux 6.1; older kernels refuse it, and older headers do not know it
#endif

namespace livekv::host_pool {

namespace {

constexpr size_t alignment = 64;
constexpr size_t small = 64 << 10;
constexpr size_t large_page = 2 << 20;
constexpr size_t least_stretch = 64 << 20;  // of addresses: memory follows as it is written

class mapped : public memory_pool::source {
  public:
    uint8_t * allocate(size_t & bytes, size_t /*held*/) override {
        const size_t least = kv_align(bytes, large_page);
        bytes = std::max(least, least_stretch);
        uint8_t * base = map(bytes);
        if (!base && bytes > least) {
            bytes = least;
            base = map(bytes);
        }
        if (!base) {
            throw std::bad_alloc();
        }
        return base;
    }

    void release(uint8_t * stretch, size_t bytes) noexcept override { ::munmap(stretch, bytes); }

    // A large page that has been given out whole is put together. None before, so that nothing is resident that no
    // block is in. Where the kernel cannot, small ones do as well.
    void on_used([[maybe_unused]] uint8_t * stretch, [[maybe_unused]] size_t from,
                 [[maybe_unused]] size_t to) noexcept override {
#ifdef MADV_COLLAPSE
        for (size_t i = from / large_page; i < to / large_page; ++i) {
            ::madvise(stretch + i * large_page, large_page, MADV_COLLAPSE);
        }
#endif
    }

    void on_free(uint8_t * piece, size_t bytes) noexcept override {
        static const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
        const size_t first = kv_align(reinterpret_cast<size_t>(piece), page);
        const size_t end = (reinterpret_cast<size_t>(piece) + bytes) / page * page;
        if (end > first) {
            ::madvise(reinterpret_cast<void *>(first), end - first, MADV_DONTNEED);
        }
    }

  private:
    static uint8_t * map(size_t bytes) {
        constexpr int access = PROT_READ | PROT_WRITE;
        void * const p = ::mmap(nullptr, bytes + large_page, access, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) {
            return nullptr;
        }
        auto * const from = static_cast<uint8_t *>(p);
        const size_t before = kv_align(reinterpret_cast<size_t>(from), large_page) - reinterpret_cast<size_t>(from);
        if (before > 0) {
            ::munmap(from, before);
        }
        if (before < large_page) {
            ::munmap(from + before + bytes, large_page - before);
        }
        return from + before;
    }
};

memory_pool & pool() {
    static memory_pool * p = [] {
        auto * const made = new memory_pool(*new mapped, alignment);  // pages may outlive every other static
        fork_gate::hold(made->mutex());
        return made;
    }();
    return *p;
}

}  // namespace

void * take(size_t bytes) {
    if (bytes >= small) {
        return pool().take(bytes);
    }
    void * const p = std::aligned_alloc(alignment, kv_align(bytes, alignment));
    if (!p) {
        throw std::bad_alloc();
    }
    return p;
}

void give_back(void * p, size_t bytes) noexcept {
    bytes >= small ? pool().give_back(p) : std::free(p);
}

size_t bytes_taken() {
    return pool().bytes_taken();
}

}  // namespace livekv::host_pool
