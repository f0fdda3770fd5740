#pragma once

// Launching a kernel of simt.h, and the device's errors as ours.

#include <cstddef>

#include "error.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/simt.h"

namespace livekv::device {

// What every GPU takes, and ours has (shared_memory_limit).
inline void check_launch(simt::dim grid, int32_t n_threads, size_t shared_bytes) {
    constexpr int32_t most_threads = 1024;
    constexpr int32_t most_yz = 65535;
    LIVEKV_ASSERT(grid.x >= 1 && grid.y >= 1 && grid.y <= most_yz && grid.z >= 1 && grid.z <= most_yz);
    LIVEKV_ASSERT(n_threads % simt::warp_size == 0 && n_threads <= most_threads);
    LIVEKV_ASSERT(shared_bytes <= shared_memory_limit());
}

#if defined(__CUDACC__)

inline void check(cudaError_t status, const char * what) {
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();  // or it would be the next call's error too
        throw std::bad_alloc();
    }
    if (status != cudaSuccess) {
        fail("the GPU failed: ", what, ": ", cudaGetErrorString(status));
    }
}

// ggml's first GPU is CUDA's; whoever calls may have chosen another for its thread.
constexpr int the_device = 0;
inline void select_device() {
    check(cudaSetDevice(the_device), "choosing it");
}

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), simt::dim grid, int32_t n_threads, size_t shared_bytes, stream on,
            const Arguments &... arguments) {
    check_launch(grid, n_threads, shared_bytes);
    select_device();
    constexpr size_t granted = 48 << 10;  // more must be asked for
    if (shared_bytes > granted) {
        check(cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(shared_bytes)),
              "a kernel's shared memory");
    }
    const dim3 blocks(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z));
    kernel<<<blocks, static_cast<unsigned>(n_threads), shared_bytes, static_cast<cudaStream_t>(on)>>>(arguments...);
    check(cudaGetLastError(), "a kernel's launch");
}

#else

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), simt::dim grid, int32_t n_threads, size_t shared_bytes, stream,
            const Arguments &... arguments) {
    check_launch(grid, n_threads, shared_bytes);
    simt::emulated::run(grid, n_threads, shared_bytes, [&] { kernel(arguments...); });
}

#endif

}  // namespace livekv::device
