#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>

#include "kernels/cuda/launch.h"

// The emulated device's memory: the host's, filled with what nobody should read.

namespace livekv::device {

void * allocate(size_t bytes) {
    void * p = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (!p) {
        throw std::bad_alloc();
    }
    std::memset(p, 0xff, bytes);  // no number, in f16 and f32
    return p;
}
void release(void * p) {
    std::free(p);
}
void * allocate_on_host(size_t bytes) {
    return allocate(bytes);
}
void release_on_host(void * p) {
    release(p);
}
void copy_to_device(void * to, const void * from, size_t bytes, stream) {
    if (bytes > 0) {
        std::memcpy(to, from, bytes);
    }
}
void copy_to_host(void * to, const void * from, size_t bytes, stream) {
    std::memcpy(to, from, bytes);
}
void copy_on_device(void * to, const void * from, size_t bytes, stream) {
    std::memmove(to, from, bytes);
}
void clear(void * p, size_t bytes, stream) {
    std::memset(p, 0, bytes);
}
void wait(stream) {}
void copy_between(void * to, bool, const void * from, bool, size_t bytes) {
    std::memcpy(to, from, bytes);
}
bool stands_in() {
    return simt::emulated::stands_in();
}

struct stopwatch::events {
    std::chrono::steady_clock::time_point first;
    std::chrono::steady_clock::time_point last;
};
stopwatch::stopwatch() : events_(std::make_unique<events>()) {}
void stopwatch::start(stream) {
    events_->first = std::chrono::steady_clock::now();
}
void stopwatch::stop(stream) {
    events_->last = std::chrono::steady_clock::now();
}
double stopwatch::seconds() const {
    return std::chrono::duration<double>(events_->last - events_->first).count();
}
memory_use memory() {
    return {size_t{8} << 30, size_t{8} << 30};
}
int32_t n_multiprocessors() {
    return 3;  // several spans, but not many
}
size_t shared_memory_limit() {
    return 163 << 10;  // sm_80's; sm_90 has 227 KiB, sm_86 and sm_89 have 99 KiB
}

stopwatch::~stopwatch() = default;
stopwatch::stopwatch(stopwatch &&) noexcept = default;

}  // namespace livekv::device
