#pragma once

// The shared memory of a block of threads in prefill (attend_rows.cuh).

#include "kernels/cuda/classes.cuh"
#include "kernels/cuda/simt.h"

namespace livekv::device {

constexpr int32_t rows_warps = 4;
constexpr int32_t rows_threads = rows_warps * simt::warp_size;
constexpr int32_t rows_of_warp = 32;
constexpr int32_t rows_of_block = rows_warps * rows_of_warp;

// Byte offset of 16-byte piece i of row r, rows of n bytes: what eight consecutive rows have at the same place lies in
// different banks.
template <int32_t row_bytes>
SIMT_FN int32_t piece_of(int32_t r, int32_t i) {
    constexpr int32_t n_pieces = row_bytes / 16;
    const int32_t turn = n_pieces >= 8 ? r % 8 : r / (8 / n_pieces) % n_pieces;
    return r * row_bytes + 16 * (i ^ turn);
}

// Sealed keys of a tile: bricks as they lie in the block.
template <int32_t head_dim, int32_t k_bits>
struct rows_key_memory {
    alignas(128) uint8_t codes[kv_tile_tokens * head_dim * k_bits / 8];
};

// In classes of width: with what belongs to them, and the levels of a group's channels, in natural order, as two
// halves each; offset: what levels add to the rows' scores.
template <int32_t head_dim>
struct rows_key_memory<head_dim, bits_by_class> {
    alignas(128) class_memory<head_dim> block;
    alignas(4) uint16_t levels[2][head_dim];
    float offset[rows_of_block];
};

template <int32_t head_dim, int32_t k_bits, int32_t v_bits>
struct rows_memory {
    static constexpr int32_t row_bytes = 2 * head_dim;
    static constexpr int32_t tile_values = kv_tile_tokens * head_dim;

    alignas(128) uint8_t q[rows_of_block * row_bytes];  // f16 [128, head_dim], pieces exchanged (piece_of)
    alignas(128) uint8_t k[2][2 * tile_values];         // f16 [32, head_dim], likewise
    alignas(128) uint8_t v[2][2 * tile_values];         // sealed: f16 [head_dim, 32]; exact: [32, head_dim]; likewise
    rows_key_memory<head_dim, k_bits> keys;
    alignas(128) uint8_t v_codes[tile_values * v_bits / 8];  // bricks of a tile as they lie in the block
    float power[rows_of_block];                              // of the scaled queries
};

}  // namespace livekv::device
