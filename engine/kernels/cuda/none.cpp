#include "error.h"
#include "kernels/cuda/kernels.h"

// The device of a build without CUDA: there is none, and nothing may ask it for anything. One file, so that a program
// that brings a device of its own (livekv_device_emulated) gets nothing of this one.

namespace livekv::device {

namespace {

[[noreturn]] void none() {
    fail("internal error: there is no GPU in this build");
}

}  // namespace

bool stands_in() {
    return false;
}

void * allocate(size_t) {
    none();
}
void release(void *) {}
void * allocate_on_host(size_t) {
    none();
}
void release_on_host(void *) {}

void copy_to_device(void *, const void *, size_t, stream) {
    none();
}
void copy_to_host(void *, const void *, size_t, stream) {
    none();
}
void copy_on_device(void *, const void *, size_t, stream) {
    none();
}
void clear(void *, size_t, stream) {
    none();
}
void wait(stream) {
    none();
}
void copy_between(void *, bool, const void *, bool, size_t) {
    none();
}

memory_use memory() {
    none();
}
int32_t n_multiprocessors() {
    none();
}
size_t shared_memory_limit() {
    none();
}

struct stopwatch::events {};
stopwatch::stopwatch() {
    none();
}
stopwatch::~stopwatch() = default;
stopwatch::stopwatch(stopwatch &&) noexcept = default;
void stopwatch::start(stream) {
    none();
}
void stopwatch::stop(stream) {
    none();
}
double stopwatch::seconds() const {
    none();
}

bool has_fast_attention(int32_t, int32_t, int32_t) {
    none();
}
size_t attention_floats(int32_t, int32_t, int32_t, int32_t) {
    none();
}
void attend(device_attention, int32_t, int32_t, float *, float *, stream, attention_kernel) {
    none();
}
void put_chunk(const device_chunk &, device_chunk *, stream) {
    none();
}
void store_rows(const device_store &, stream) {
    none();
}
void check_rows(const device_rows &, stream) {
    none();
}

int32_t longest_chunk() {
    none();
}
size_t seal_words(const kv_method &, int32_t, int32_t, int32_t, int32_t) {
    none();
}
void seal(device_seal, uint32_t *, stream) {
    none();
}
void pack_queries(const kv_method &, const float *, int32_t, int32_t, int32_t, int32_t, int32_t, uint8_t *, stream) {
    none();
}

}  // namespace livekv::device
