#include "memory/device_pool.h"

#include <algorithm>
#include <new>

#include "kernels/cuda/kernels.h"
#include "kv/kv_block.h"
#include "memory/memory_pool.h"

namespace livekv::device_pool {

namespace {

// A stretch is at least so large, and an eighth of what there is: asking for one stops the device for a moment.
constexpr size_t least_stretch = 64 << 20;
constexpr size_t share = 8;
constexpr size_t alignment = 256;
// Left to ggml, whose operations ask for workspace as they run and end the process where there is none.
constexpr size_t reserve = 256 << 20;

class gpu : public memory_pool::source {
  public:
    uint8_t * allocate(size_t & bytes, size_t held) override {
        const size_t least = bytes;
        const size_t free = device::memory().free;
        if (free < least + reserve) {
            throw std::bad_alloc();
        }
        bytes = std::max({least, least_stretch, kv_align(held / share, alignment)});
        if (free < bytes + reserve) {
            bytes = least;
        }
        try {
            return static_cast<uint8_t *>(device::allocate(bytes));
        } catch (const std::bad_alloc &) {
            if (bytes == least) {
                throw;
            }
            bytes = least;  // the last of it
            return static_cast<uint8_t *>(device::allocate(bytes));
        }
    }
    void release(uint8_t * stretch, size_t /*bytes*/) noexcept override { device::release(stretch); }
};

memory_pool & pool() {
    static memory_pool * p = new memory_pool(*new gpu, alignment);  // pages may outlive every other static
    return *p;
}

}  // namespace

void * take(size_t bytes) {
    return pool().take(bytes);
}

void give_back(void * p) noexcept {
    pool().give_back(p);
}

}  // namespace livekv::device_pool
