#include <cstring>

#include "kernels/cuda/launch.h"

// The device's memory.

namespace livekv::device {

namespace {
cudaStream_t cuda_stream(stream s) {
    return static_cast<cudaStream_t>(s);
}
}  // namespace

void * allocate(size_t bytes) {
    void * p = nullptr;
    select_device();
    check(cudaMalloc(&p, bytes), "allocating memory");
    return p;
}
void release(void * p) {
    cudaFree(p);
}
void * allocate_on_host(size_t bytes) {
    void * p = nullptr;
    select_device();
    check(cudaHostAlloc(&p, bytes, cudaHostAllocMapped | cudaHostAllocPortable), "allocating the host's memory");
    return p;
}
void release_on_host(void * p) {
    cudaFreeHost(p);
}
void copy_to_device(void * to, const void * from, size_t bytes, stream s) {
    select_device();
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, cuda_stream(s)), "copying to the device");
    wait(s);  // only where the driver reaches pageable memory by staging it are its bytes taken at once
}
void copy_to_host(void * to, const void * from, size_t bytes, stream s) {
    select_device();
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, cuda_stream(s)), "copying from the device");
    wait(s);
}
void copy_on_device(void * to, const void * from, size_t bytes, stream s) {
    select_device();
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, cuda_stream(s)), "copying on the device");
}
void clear(void * p, size_t bytes, stream s) {
    select_device();
    check(cudaMemsetAsync(p, 0, bytes, cuda_stream(s)), "clearing memory");
}
void wait(stream s) {
    select_device();
    check(cudaStreamSynchronize(cuda_stream(s)), "waiting for it");
}
// In a stream of its own: waiting for the whole device is an error, and breaks the other's work, while another session
// of the process captures a graph.
void copy_between(void * to, bool to_device, const void * from, bool from_device, size_t bytes) {
    if (!to_device && !from_device) {  // perhaps there is no GPU
        std::memcpy(to, from, bytes);
        return;
    }
    select_device();
    static const cudaStream_t s = [] {
        cudaStream_t created = nullptr;
        check(cudaStreamCreateWithFlags(&created, cudaStreamNonBlocking), "making a stream");
        return created;
    }();
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, s), "copying");
    wait(s);
}
bool stands_in() {
    return false;
}

struct stopwatch::events {
    cudaEvent_t first = nullptr;
    cudaEvent_t last = nullptr;

    ~events() {
        cudaEventDestroy(first);
        cudaEventDestroy(last);
    }
};
stopwatch::stopwatch() : events_(std::make_unique<events>()) {
    select_device();
    check(cudaEventCreate(&events_->first), "making an event");
    check(cudaEventCreate(&events_->last), "making an event");
}
void stopwatch::start(stream s) {
    check(cudaEventRecord(events_->first, cuda_stream(s)), "recording an event");
}
void stopwatch::stop(stream s) {
    check(cudaEventRecord(events_->last, cuda_stream(s)), "recording an event");
}
double stopwatch::seconds() const {
    float milliseconds = 0.0f;
    check(cudaEventElapsedTime(&milliseconds, events_->first, events_->last), "reading an event");
    return 1e-3 * static_cast<double>(milliseconds);
}

memory_use memory() {
    memory_use m;
    select_device();
    check(cudaMemGetInfo(&m.free, &m.total), "asking for its memory");
    return m;
}
namespace {
int32_t attribute(cudaDeviceAttr which) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, the_device), "asking for its properties");
    return value;
}
}  // namespace

int32_t n_multiprocessors() {
    static const int32_t n = attribute(cudaDevAttrMultiProcessorCount);
    return n;
}
size_t shared_memory_limit() {
    static const size_t n = static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
    return n;
}

stopwatch::~stopwatch() = default;
stopwatch::stopwatch(stopwatch &&) noexcept = default;

}  // namespace livekv::device
