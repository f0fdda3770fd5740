#include "cache/device_pool.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <mutex>
#include <new>
#include <unordered_map>
#include <vector>

#include "kernels/cuda/kernels.h"
#include "kv/kv_block.h"

namespace livekv::device_pool {

namespace {

// A stretch is at least so large, and an eighth of what there is: asking for one stops the device for a moment.
constexpr size_t least_stretch = 64 << 20;
constexpr size_t share = 8;
constexpr size_t alignment = 256;
// Left to ggml, whose operations ask for workspace as they run and end the process where there is none.
constexpr size_t reserve = 256 << 20;

struct stretch {
    size_t bytes = 0;
    size_t used = 0;  // from its start; pieces behind it have never been given out
    size_t n_pieces = 0;
};

struct pool {
    std::mutex mutex;
    std::map<uint8_t *, stretch> stretches;
    std::unordered_map<void *, size_t> taken;                        // with their sizes
    std::unordered_map<size_t, std::vector<uint8_t *>> free_pieces;  // by size
};

pool & the_pool() {
    static pool * p = new pool;  // pages may outlive every other static
    return *p;
}

uint8_t * stretch_of(pool & p, uint8_t * at) {
    return std::prev(p.stretches.upper_bound(at))->first;
}

uint8_t * find_room(pool & p, size_t bytes) {
    if (auto & same = p.free_pieces[bytes]; !same.empty()) {
        uint8_t * const at = same.back();
        same.pop_back();
        return at;
    }
    for (auto & [base, s] : p.stretches) {
        if (s.bytes - s.used >= bytes) {
            s.used += bytes;
            return base + s.used - bytes;
        }
    }
    size_t held = 0;
    for (const auto & [base, s] : p.stretches) {
        held += s.bytes;
    }
    const size_t free = device::memory().free;
    if (free < bytes + reserve) {
        throw std::bad_alloc();
    }
    size_t size = std::max({bytes, least_stretch, kv_align(held / share, alignment)});
    if (free < size + reserve) {
        size = bytes;
    }
    for (;;) {
        try {
            auto * const base = static_cast<uint8_t *>(device::allocate(size));
            p.stretches[base] = {size, bytes, 0};
            return base;
        } catch (const std::bad_alloc &) {
            if (size == bytes) {
                throw;
            }
            size = bytes;  // the last of it
        }
    }
}

}  // namespace

void * take(size_t bytes) {
    pool & p = the_pool();
    const std::lock_guard lock(p.mutex);
    bytes = kv_align(bytes > 0 ? bytes : 1, alignment);
    uint8_t * const at = find_room(p, bytes);
    p.taken[at] = bytes;
    ++p.stretches[stretch_of(p, at)].n_pieces;
    return at;
}

void give_back(void * data) noexcept {
    if (!data) {
        return;
    }
    pool & p = the_pool();
    const std::lock_guard lock(p.mutex);
    const auto found = p.taken.find(data);
    auto * const at = static_cast<uint8_t *>(data);
    uint8_t * const base = stretch_of(p, at);
    stretch & s = p.stretches[base];
    p.free_pieces[found->second].push_back(at);
    p.taken.erase(found);
    if (--s.n_pieces > 0) {
        return;
    }
    for (auto & [size, pieces] : p.free_pieces) {
        std::erase_if(pieces, [&](const uint8_t * x) { return x >= base && x < base + s.bytes; });
    }
    p.stretches.erase(base);
    device::release(base);
}

size_t bytes_held() {
    pool & p = the_pool();
    const std::lock_guard lock(p.mutex);
    size_t total = 0;
    for (const auto & [base, s] : p.stretches) {
        total += s.bytes;
    }
    return total;
}

}  // namespace livekv::device_pool
