#pragma once

// The emulation behind simt.h: the threads of a block are fibers of one thread of the machine, switched where they wait
// for each other; blocks run one after the other. What a lane gives to its warp (shuffles, fragments) lies in a slot
// the others read. Not fast; exact about layout. Races show where they depend on the order of threads between two
// barriers: set_order runs them in another one, and results must not change.
//
// What a GPU would trap on, or do wrongly without a word, throws livekv::error with the line: an access that is not
// aligned or beyond the shared memory asked for, an address of the wrong space, threads that meet at different lines, a
// copy nobody waited for. `where` is always the caller's.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <source_location>

#include "kv/f16.h"

namespace livekv::simt {

struct dim {
    int32_t x = 1;
    int32_t y = 1;
    int32_t z = 1;
};

namespace emulated {

using site = std::source_location;

constexpr size_t slot_bytes = 64;

// Runs body for every thread of every block. Throws livekv::error when threads wait for each other for ever.
void run(dim grid, int32_t n_threads, size_t shared_bytes, const std::function<void()> & body);

// Of threads that can run: all in turns, from the first or the last or in any order; or one warp as far as it gets
// before the next, from the first or the last, which shows where another's work was not waited for.
enum class order { forward, backward, shuffled, warp_by_warp, last_warp_first };
constexpr order all_orders[] = {order::forward, order::backward, order::shuffled, order::warp_by_warp,
                                order::last_warp_first};
void set_order(order o);

// Whether what a thread writes into shared memory is seen by others after their next barrier and not before
// (shared_view.h): finds barriers that only shuffles stand in for. Slow.
void set_late_writes(bool on);

// Whether engines made from now on compute their caches here, some thousand times slower than the CPU would.
void set_stands_in(bool on);
bool stands_in();

int32_t thread();
int32_t n_threads();
dim block();
uint8_t * shared();
void sync(const site & where);

// Puts n bytes into this lane's slot, waits for the warp, and returns all slots, 32 of slot_bytes, valid until this
// thread's next exchange.
// is_barrier: it orders shared memory too.
const uint8_t * exchange(const void * bytes, size_t n, const site & where, bool is_barrier = false);

// That n bytes at p are aligned, and of shared memory only what was asked for.
void check_access(const void * p, size_t n, size_t alignment, const site & where);
void check_shared(const void * p, size_t n, const site & where);  // all of that, and they are shared memory
void check_global(const void * p, size_t n, const site & where);  // and they are not

// Done by wait_copies and not before.
void copy_later(void * to, const void * from, bool valid, const site & where);
void wait_copies();

template <typename T>
T slot(const uint8_t * slots, int32_t lane) {
    T x;
    std::memcpy(&x, slots + static_cast<size_t>(lane) * slot_bytes, sizeof(T));
    return x;
}
template <typename T>
T from_lane(T x, int32_t lane, const site & where) {
    return slot<T>(exchange(&x, sizeof(T), where), lane & 31);
}

inline float half_of(uint32_t pair, int32_t i) {
    return f16_to_f32(static_cast<uint16_t>(pair >> (16 * i)));
}

}  // namespace emulated

inline int32_t thread() {
    return emulated::thread();
}
inline int32_t n_threads() {
    return emulated::n_threads();
}
inline int32_t block_x() {
    return emulated::block().x;
}
inline int32_t block_y() {
    return emulated::block().y;
}
inline int32_t block_z() {
    return emulated::block().z;
}
inline uint8_t * shared() {
    return emulated::shared();
}
template <typename T>
T * as(void * p, const emulated::site & where = emulated::site::current()) {
    emulated::check_access(p, sizeof(T), alignof(T), where);
    return static_cast<T *>(p);
}
template <typename T>
const T * as(const void * p, const emulated::site & where = emulated::site::current()) {
    emulated::check_access(p, sizeof(T), alignof(T), where);
    return static_cast<const T *>(p);
}

inline void sync(const emulated::site & where = emulated::site::current()) {
    emulated::sync(where);
}
inline void sync_warp(const emulated::site & where = emulated::site::current()) {
    const uint32_t nothing = 0;
    emulated::exchange(&nothing, sizeof(nothing), where, true);
}
inline void fence() {}
inline uint32_t atomic_add(uint32_t * p, uint32_t x) {
    const uint32_t before = *p;
    *p += x;
    return before;
}
inline void atomic_min(uint32_t * p, uint32_t x) {
    *p = *p < x ? *p : x;
}

inline uint32_t ballot(bool x, const emulated::site & where = emulated::site::current()) {
    const uint8_t bit = x;
    const uint8_t * slots = emulated::exchange(&bit, 1, where);
    uint32_t bits = 0;
    for (int32_t i = 0; i < 32; ++i) {
        bits |= static_cast<uint32_t>(emulated::slot<uint8_t>(slots, i)) << i;
    }
    return bits;
}
inline uint32_t shuffle(uint32_t x, int32_t from, const emulated::site & where = emulated::site::current()) {
    return emulated::from_lane(x, from, where);
}
inline uint32_t shuffle_xor(uint32_t x, int32_t mask, const emulated::site & where = emulated::site::current()) {
    return emulated::from_lane(x, (thread() & 31) ^ mask, where);
}
inline float shuffle_xor(float x, int32_t mask, const emulated::site & where = emulated::site::current()) {
    return emulated::from_lane(x, (thread() & 31) ^ mask, where);
}
inline uint32_t shuffle_up(uint32_t x, int32_t by, const emulated::site & where = emulated::site::current()) {
    const int32_t lane = thread() & 31;
    return emulated::from_lane(x, lane < by ? lane : lane - by, where);
}
inline uint32_t sum_of_warp(uint32_t x, const emulated::site & where = emulated::site::current()) {
    const uint8_t * slots = emulated::exchange(&x, sizeof(x), where);
    uint32_t sum = 0;
    for (int32_t i = 0; i < 32; ++i) {
        sum += emulated::slot<uint32_t>(slots, i);
    }
    return sum;
}
inline int32_t popcount(uint32_t x) {
    return __builtin_popcount(x);
}

inline float exp2(float x) {
    return std::exp2(x);
}
inline uint32_t to_halves(float low, float high) {
    return f32_to_f16(low) | static_cast<uint32_t>(f32_to_f16(high)) << 16;
}
inline uint32_t add_halves(uint32_t a, uint32_t b) {
    return to_halves(emulated::half_of(a, 0) + emulated::half_of(b, 0),
                     emulated::half_of(a, 1) + emulated::half_of(b, 1));
}
inline uint32_t fma_halves(uint32_t a, uint32_t b, uint32_t c) {
    const auto one = [&](int32_t i) {
        return std::fma(emulated::half_of(a, i), emulated::half_of(b, i), emulated::half_of(c, i));
    };
    return to_halves(one(0), one(1));
}

inline uint32_t bytes_of(uint32_t a, uint32_t b, uint32_t selector) {
    const uint64_t all = a | static_cast<uint64_t>(b) << 32;
    uint32_t r = 0;
    for (int32_t i = 0; i < 4; ++i) {
        r |= static_cast<uint32_t>(all >> (8 * (selector >> (4 * i) & 7)) & 255) << (8 * i);
    }
    return r;
}
inline uint32_t and_or(uint32_t x, uint32_t mask, uint32_t bits) {
    return (x & mask) | bits;
}

inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                const emulated::site & where = emulated::site::current()) {
    struct fragments {
        uint32_t a[4];
        uint32_t b[2];
    };
    const fragments mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
    const uint8_t * slots = emulated::exchange(&mine, sizeof(mine), where);
    const int32_t g = (thread() & 31) / 4;
    const int32_t q = thread() & 3;
    for (int32_t k = 0; k < 16; ++k) {
        const int32_t owner = k % 8 / 2;  // q of the lanes that hold column k of A and row k of B
        const auto element_of_a = [&](int32_t row_half) {
            return emulated::half_of(emulated::slot<fragments>(slots, 4 * g + owner).a[row_half + k / 8 * 2], k % 2);
        };
        const auto element_of_b = [&](int32_t column) {
            return emulated::half_of(emulated::slot<fragments>(slots, 4 * column + owner).b[k / 8], k % 2);
        };
        c[0] += element_of_a(0) * element_of_b(2 * q);
        c[1] += element_of_a(0) * element_of_b(2 * q + 1);
        c[2] += element_of_a(1) * element_of_b(2 * q);
        c[3] += element_of_a(1) * element_of_b(2 * q + 1);
    }
}
inline uint32_t transpose(uint32_t x, const emulated::site & where = emulated::site::current()) {
    const uint8_t * slots = emulated::exchange(&x, sizeof(x), where);
    const int32_t g = (thread() & 31) / 4;
    const int32_t q = thread() & 3;
    const auto element = [&](int32_t row, int32_t column) {
        return emulated::slot<uint32_t>(slots, 4 * row + column / 2) >> (16 * (column % 2)) & 0xffffu;
    };
    return element(2 * q, g) | element(2 * q + 1, g) << 16;
}
inline void load_matrices(uint32_t (&r)[4], const void * row,
                          const emulated::site & where = emulated::site::current()) {
    emulated::check_shared(row, 16, where);
    const uint8_t * slots = emulated::exchange(&row, sizeof(row), where);
    const int32_t lane = thread() & 31;
    for (int32_t i = 0; i < 4; ++i) {
        const auto * from = static_cast<const uint8_t *>(emulated::slot<const void *>(slots, 8 * i + lane / 4));
        std::memcpy(&r[i], from + 4 * (lane % 4), 4);
    }
}
inline void load_matrices_transposed(uint32_t (&r)[4], const void * row,
                                     const emulated::site & where = emulated::site::current()) {
    emulated::check_shared(row, 16, where);
    const uint8_t * slots = emulated::exchange(&row, sizeof(row), where);
    const int32_t lane = thread() & 31;
    for (int32_t i = 0; i < 4; ++i) {
        uint32_t pair = 0;
        for (int32_t j = 0; j < 2; ++j) {
            uint16_t h;
            const auto * from =
                static_cast<const uint8_t *>(emulated::slot<const void *>(slots, 8 * i + 2 * (lane % 4) + j));
            std::memcpy(&h, from + 2 * (lane / 4), 2);
            pair |= static_cast<uint32_t>(h) << (16 * j);
        }
        r[i] = pair;
    }
}

inline void copy_16(void * to, const void * from, bool valid,
                    const emulated::site & where = emulated::site::current()) {
    emulated::copy_later(to, from, valid, where);
}
inline void wait_copies() {
    emulated::wait_copies();
}
inline uint32_t load_fresh(const uint32_t * p, const emulated::site & where = emulated::site::current()) {
    emulated::check_global(p, sizeof(uint32_t), where);
    return *p;
}
inline uint32_t load_once(const void * p, const emulated::site & where = emulated::site::current()) {
    emulated::check_global(p, sizeof(uint32_t), where);
    return *static_cast<const uint32_t *>(p);
}

}  // namespace livekv::simt
