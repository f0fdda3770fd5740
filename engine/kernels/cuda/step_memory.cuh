#pragma once

// The shared memory of a block of threads in decode (attend_step.cuh), and the order in which its warps see tokens.

#include "kernels/cuda/classes.cuh"

namespace livekv::device {

constexpr int32_t step_rows = 8;
constexpr int32_t step_warps = 4;
constexpr int32_t step_threads = step_warps * simt::warp_size;

// The token of 16 (the first 8 of them) that row g of the scores is.
SIMT_FN int32_t brick_token(int32_t g) {
    return (g & 4) | (g & 1) << 1 | (g >> 1 & 1);
}

template <int32_t head_dim>
struct step_memory {
    static constexpr int32_t n_steps = head_dim / 16;

    alignas(16) float q[head_dim][step_rows];         // scaled
    simt::two_words query[n_steps][simt::warp_size];  // the same as each lane's B fragments: registers are scarce
    float power[step_rows];
    struct each_warp {
        float scores[kv_tile_tokens][step_rows];  // what outliers add; then weights, where values have outliers
        float factor[step_rows];
    } warps[step_warps];
    float m[step_warps][step_rows];
    float l[step_warps][step_rows];
    float o[step_warps][step_rows][head_dim];
};

// A warp's keys beside it: the grids of a group.
template <int32_t head_dim, int32_t k_bits>
struct step_key_memory {
    simt::four_words grid[head_dim / 4];
};

// Or, in classes of width, what is fetched of them, and what belongs to it: the queries in the block's order, as each
// lane's B fragments, and what the levels of a group add to each row's scores.
template <int32_t head_dim>
struct step_key_memory<head_dim, bits_by_class> {
    class_memory<head_dim> block;
    simt::two_words query[head_dim / 16][simt::warp_size];
    float offset[step_rows];
};

template <int32_t head_dim, int32_t k_bits>
struct step_shared {
    step_memory<head_dim> common;
    step_key_memory<head_dim, k_bits> keys[step_warps];
};

// As many floats of shared memory behind step_shared when values have outliers: [step_warps, head_dim, step_rows].
template <int32_t head_dim>
constexpr size_t step_outlier_floats = static_cast<size_t>(step_warps) * head_dim * step_rows;

}  // namespace livekv::device
