#pragma once

// What kernels are written with: the few things of CUDA C++ and PTX they use, under one name each. Compiled by nvcc
// they are the instructions; compiled by a C++ compiler they are emulated (simt_emulated.h), so that every index, mask
// and fragment layout of a kernel is tested without a GPU.
//
// A warp's lane holds of the matrices of mma.m16n8k16 (PTX ISA, "Matrix Fragments for mma.m16n8k16"), g = lane / 4,
// q = lane % 4, two halves a register, the lower column or row in the lower half:
//   A [16, 16]  a0: row g, columns 2q, 2q+1       a1: row g+8       a2: row g, columns 2q+8, +9     a3: row g+8, same
//   B [16, 8]   b0: rows 2q, 2q+1 of column g     b1: rows 2q+8, +9
//   C [16, 8]   c0, c1: row g, columns 2q, 2q+1   c2, c3: row g+8                        (one float a register)

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kv/f16.h"
#include "kv/host_device.h"

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define SIMT_KERNEL __global__
#define SIMT_UNROLL _Pragma("unroll")  // register arrays need indices known when compiled
#define SIMT_UNROLL_2 _Pragma("unroll 2")
#define SIMT_BOUNDS(n_threads, n_blocks) __launch_bounds__(n_threads, n_blocks)  // blocks a multiprocessor shall hold
#define SIMT_PARAM __grid_constant__  // a parameter whose address may be taken without a copy
#define SIMT_FN static __device__ __forceinline__
#define SIMT_MEMBER __device__ __forceinline__
#else
#include "kernels/cuda/simt_emulated.h"
#define SIMT_KERNEL static
#define SIMT_UNROLL
#define SIMT_UNROLL_2
#define SIMT_BOUNDS(n_threads, n_blocks)
#define SIMT_PARAM
#define SIMT_FN static inline
#define SIMT_MEMBER inline
#endif

namespace livekv::simt {

constexpr int32_t warp_size = 32;

// Read and written by one instruction.
struct alignas(8) two_words {
    uint32_t w[2];
};
struct alignas(16) four_words {
    uint32_t w[4];
};

#if defined(__CUDACC__)

struct dim {
    int32_t x = 1;
    int32_t y = 1;
    int32_t z = 1;
};

SIMT_FN int32_t thread() {
    return static_cast<int32_t>(threadIdx.x);
}
SIMT_FN int32_t n_threads() {
    return static_cast<int32_t>(blockDim.x);
}
SIMT_FN int32_t block_x() {
    return static_cast<int32_t>(blockIdx.x);
}
SIMT_FN int32_t block_y() {
    return static_cast<int32_t>(blockIdx.y);
}
SIMT_FN int32_t block_z() {
    return static_cast<int32_t>(blockIdx.z);
}
SIMT_FN uint8_t * shared() {
    extern __shared__ __align__(128) uint8_t livekv_shared[];
    return livekv_shared;
}
// What lies at p as a T: p is aligned for it, and in shared memory there is room.
template <typename T>
SIMT_FN T * as(void * p) {
    return reinterpret_cast<T *>(p);
}
template <typename T>
SIMT_FN const T * as(const void * p) {
    return reinterpret_cast<const T *>(p);
}

SIMT_FN void sync() {
    __syncthreads();
}
SIMT_FN void sync_warp() {
    __syncwarp();
}
SIMT_FN void fence() {
    __threadfence();
}
SIMT_FN uint32_t atomic_add(uint32_t * p, uint32_t x) {
    return atomicAdd(p, x);
}
// p may be the host's memory: of one device's threads it is atomic there too, of others' never without NVLink.
SIMT_FN void atomic_min(uint32_t * p, uint32_t x) {
    atomicMin(p, x);
}

SIMT_FN uint32_t ballot(bool x) {
    return __ballot_sync(0xffffffffu, x);
}
SIMT_FN uint32_t shuffle(uint32_t x, int32_t from) {
    return __shfl_sync(0xffffffffu, x, from);
}
SIMT_FN uint32_t shuffle_xor(uint32_t x, int32_t mask) {
    return __shfl_xor_sync(0xffffffffu, x, mask);
}
SIMT_FN float shuffle_xor(float x, int32_t mask) {
    return __shfl_xor_sync(0xffffffffu, x, mask);
}
SIMT_FN uint32_t shuffle_up(uint32_t x, int32_t by) {
    return __shfl_up_sync(0xffffffffu, x, by);
}
SIMT_FN uint32_t sum_of_warp(uint32_t x) {
    return __reduce_add_sync(0xffffffffu, x);
}
SIMT_FN int32_t popcount(uint32_t x) {
    return __popc(x);
}

SIMT_FN float exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
SIMT_FN float to_float(uint16_t h) {
    return __half2float(__ushort_as_half(h));
}
SIMT_FN uint16_t to_half(float x) {
    return __half_as_ushort(__float2half_rn(x));
}
SIMT_FN uint32_t to_halves(float low, float high) {
    const __half2 h = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t *>(&h);
}
SIMT_FN uint32_t add_halves(uint32_t a, uint32_t b) {
    uint32_t d;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}
SIMT_FN uint32_t fma_halves(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

// Bytes of (a, b), b's numbered 4 to 7, chosen by the four lower digits of selector, lowest first.
SIMT_FN uint32_t bytes_of(uint32_t a, uint32_t b, uint32_t selector) {
    return __byte_perm(a, b, selector);
}
// (x & mask) | bits, one instruction.
SIMT_FN uint32_t and_or(uint32_t x, uint32_t mask, uint32_t bits) {
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(d) : "r"(x), "r"(mask), "r"(bits));
    return d;
}

// c += a b
SIMT_FN void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// An 8 x 8 matrix of halves, row g in the lanes of that g, becomes its transpose.
SIMT_FN uint32_t transpose(uint32_t x) {
    uint32_t y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}
// Four 8 x 8 matrices of halves from shared memory; row: where row lane % 8 of matrix lane / 8 starts, 16 bytes.
SIMT_FN void load_matrices(uint32_t (&r)[4], const void * row) {
    const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}
SIMT_FN void load_matrices_transposed(uint32_t (&r)[4], const void * row) {
    const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

// 16 bytes from global to shared memory, zeros unless valid; there after wait_copies and a barrier.
SIMT_FN void copy_16(void * to, const void * from, bool valid) {
    const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    const int n = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(n) : "memory");
}
SIMT_FN void wait_copies() {
    asm volatile("cp.async.wait_all;" ::: "memory");
}

// What another block of threads has written, after a fence: not what this multiprocessor may remember of it.
SIMT_FN uint32_t load_fresh(const uint32_t * p) {
    return __ldcg(p);
}

// 32 bits that are read once: not kept in the first-level cache.
SIMT_FN uint32_t load_once(const void * p) {
    return __ldcs(static_cast<const unsigned int *>(p));
}

#else

SIMT_FN float to_float(uint16_t h) {
    return f16_to_f32(h);
}
SIMT_FN uint16_t to_half(float x) {
    return f32_to_f16(x);
}

#endif

SIMT_FN uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof(u));
    return u;
}
SIMT_FN float float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof(x));
    return x;
}

SIMT_FN int32_t lane() {
    return thread() % warp_size;
}
SIMT_FN int32_t warp() {
    return thread() / warp_size;
}

SIMT_FN float larger(float a, float b) {
    return a > b ? a : b;
}
SIMT_FN float smaller(float a, float b) {
    return a < b ? a : b;
}

}  // namespace livekv::simt
