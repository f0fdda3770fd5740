#pragma once

// Products of rows with a matrix of quantized weights: y = W x, for a few rows or many. weights/tile.h draws the
// matrix.
//
// Rows x are rounded first, 32 inputs at a time, to signed bytes with a scale (the largest magnitude becomes 127), as
// ggml rounds them for q8_0. Packed rows: 8 at a time, the last ones as many as there are (n),
//
//   part of 32 inputs   bytes [8 quads][n][4] | f32 scale [n] | f32 sum [n] | sum of the first 16 [n] | of the others
//   [n]
//
// where a sum is that of the bytes times the scale: minimum * sum is what the minima contribute.

#include <cstddef>
#include <cstdint>

namespace livekv {

enum class weight_type { q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k };

// What packing a type needs to know.
struct weight_format {
    int32_t span;       // inputs of a tile; a matrix has whole tiles
    size_t file_bytes;  // of a block of span inputs of one output in a file
    size_t tile_bytes;
};
weight_format format_of(weight_type type);

// A matrix in the layout of weights/tile.h. Who fills it keeps the memory alive.
struct packed_matrix {
    weight_type type;
    int64_t n_in = 0;
    int64_t n_out = 0;
    const uint8_t * strips = nullptr;  // 64-byte aligned

    int64_t n_strips() const { return (n_out + 15) / 16; }
    size_t strip_bytes() const;
};

// The strips [first, first + n) from a file's rows [n_out][n_in / span] of blocks. to: of the first one, zeros.
void pack_strips(const packed_matrix & shape, const uint8_t * file, int64_t first, int64_t n, uint8_t * to);

constexpr int64_t rows_a_tile = 8;
constexpr size_t packed_part_bytes = 48;  // of one row

// Bytes of n_rows packed rows of n_in inputs, a multiple of 32.
static inline size_t packed_row_bytes(int64_t n_in, int64_t n_rows) {
    return packed_part_bytes * static_cast<size_t>(n_in / 32) * static_cast<size_t>(n_rows);
}

}  // namespace livekv
