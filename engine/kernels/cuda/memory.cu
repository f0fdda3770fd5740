#include "kernels/cuda/launch.h"

// The device's memory; where kernels are emulated, the host's, filled with what nobody should read.

#if !defined(__CUDACC__)
#include <cstdlib>
#include <cstring>
#include <new>
#endif

namespace livekv::device {

#if defined(__CUDACC__)

namespace {
cudaStream_t cuda_stream(stream s) {
    return static_cast<cudaStream_t>(s);
}
}  // namespace

void * allocate(size_t bytes) {
    void * p = nullptr;
    check(cudaMalloc(&p, bytes), "allocating memory");
    return p;
}
void release(void * p) {
    cudaFree(p);
}
void * allocate_on_host(size_t bytes) {
    void * p = nullptr;
    check(cudaHostAlloc(&p, bytes, cudaHostAllocMapped | cudaHostAllocPortable), "allocating the host's memory");
    return p;
}
void release_on_host(void * p) {
    cudaFreeHost(p);
}
void copy_to_device(void * to, const void * from, size_t bytes, stream s) {
    // From pageable memory: the call returns when the bytes have been taken.
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, cuda_stream(s)), "copying to the device");
}
void copy_to_host(void * to, const void * from, size_t bytes, stream s) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, cuda_stream(s)), "copying from the device");
    wait(s);
}
void copy_on_device(void * to, const void * from, size_t bytes, stream s) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, cuda_stream(s)), "copying on the device");
}
void clear(void * p, size_t bytes, stream s) {
    check(cudaMemsetAsync(p, 0, bytes, cuda_stream(s)), "clearing memory");
}
void wait(stream s) {
    check(cudaStreamSynchronize(cuda_stream(s)), "waiting for it");
}
memory_use memory() {
    memory_use m;
    check(cudaMemGetInfo(&m.free, &m.total), "asking for its memory");
    return m;
}
int32_t n_multiprocessors() {
    static const int32_t n = [] {
        int device = 0;
        int count = 0;
        check(cudaGetDevice(&device), "asking for the device");
        check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "asking for its size");
        return count;
    }();
    return n;
}

#else

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
    std::memcpy(to, from, bytes);
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
memory_use memory() {
    return {size_t{8} << 30, size_t{8} << 30};
}
int32_t n_multiprocessors() {
    return 3;  // several spans, but not many
}

#endif

}  // namespace livekv::device
