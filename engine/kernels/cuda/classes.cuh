#pragma once

// Keys whose channels stand in classes of width (kv_block.h, version 2), from the codes of a tile in shared memory to
// what the tensor cores take. A code u of b bits stands for minimum + scale * u = level + scale * (u - (2^b - 1) / 2):
// what is left of the key is small and becomes halves, and the level, which is a channel's whatever the token and may
// be large beside it, is multiplied apart, once a group of tokens.

#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/tiles.cuh"

namespace livekv::device {

// Where a key group's parts of a block come to, and the bricks of a tile.
template <int32_t head_dim>
struct class_memory {
    static constexpr int32_t n_quads = head_dim / 4;

    alignas(16) uint8_t codes[kv_tile_tokens / 16 * n_quads * 8 * widest_class];  // of a tile
    alignas(16) uint16_t scales[head_dim];                                        // of the group
    alignas(16) uint16_t minima[head_dim];                                        // of the group
    alignas(16) uint16_t order[head_dim];                                         // of the block, as the next
    alignas(16) uint8_t widths[n_quads];

    // What place stands for.
    SIMT_MEMBER float level(int32_t place) const {
        const int32_t width = widths[place / 4];
        const float middle = 0.5f * static_cast<float>((1 << width) - 1);
        return simt::to_float(minima[place]) + simt::to_float(scales[place]) * middle;
    }

    // x -> scale * (x + 1/2) for a quad's columns, as grid_of: x is a code less 2^(b-1).
    SIMT_MEMBER simt::four_words quad_grid(int32_t quad) const {
        constexpr uint32_t half = 0x38003800u;
        const auto four = *simt::as<simt::two_words>(scales + 4 * quad);
        const uint32_t even = simt::bytes_of(four.w[0], four.w[1], 0x5410u);
        const uint32_t odd = simt::bytes_of(four.w[0], four.w[1], 0x7632u);
        return {{even, odd, simt::fma_halves(even, half, 0u), simt::fma_halves(odd, half, 0u)}};
    }
};

// What was fetched last, so that no group's parts are fetched twice.
struct class_position {
    int32_t chunk = -1;
    int32_t group = -1;
};

// Copies a tile's codes and, of another group or block than before, its parts: all under way until wait_copies. By
// threads i = 0 ... n_threads - 1. Returns whether the group is another one.
template <int32_t head_dim>
SIMT_FN bool fetch_classes(const device_side & s, const uint8_t * block, const tile_place & p, int32_t i,
                           int32_t n_threads, class_position & last, class_memory<head_dim> & to) {
    const auto copy = [&](const uint8_t * from, int32_t n_bytes, void * where) {
        for (int32_t at = 16 * i; at < n_bytes; at += 16 * n_threads) {
            simt::copy_16(static_cast<uint8_t *>(where) + at, from + at, true);
        }
    };
    const int32_t sixteens = kv_ceil_div(s.n_stored - p.first, 16);
    copy(block + s.codes + static_cast<size_t>(p.first / 16) * (8 * s.width_sum),
         (sixteens < 2 ? sixteens : 2) * 8 * s.width_sum, to.codes);
    const int32_t group = p.first / s.group;
    const bool another_block = p.chunk != last.chunk;
    const bool another = another_block || group != last.group;
    if (another_block) {
        copy(block + s.order, 2 * head_dim, to.order);
        copy(block + s.widths, head_dim / 4, to.widths);
    }
    if (another) {
        copy(block + sizeof(kv_block_header) + 2 * group * head_dim, 2 * head_dim, to.scales);
        copy(block + s.minima + 2 * group * head_dim, 2 * head_dim, to.minima);
    }
    last = {p.chunk, group};
    return another;
}

// Of quad `lane`: where its bricks begin in a row of them << 8 | its width. All lanes of a warp.
template <int32_t head_dim>
SIMT_FN uint32_t place_of_lane(const class_memory<head_dim> & m) {
    static_assert(class_memory<head_dim>::n_quads <= simt::warp_size, "a lane a quad");
    const uint32_t width = simt::lane() < class_memory<head_dim>::n_quads ? m.widths[simt::lane()] : 0u;
    uint32_t sum = width;
    SIMT_UNROLL
    for (int32_t step = 1; step < simt::warp_size; step *= 2) {
        const uint32_t before = simt::shuffle_up(sum, step);
        sum += simt::lane() >= step ? before : 0u;
    }
    return 8 * (sum - width) << 8 | width;
}

template <int32_t bits, int32_t n>
SIMT_FN void centred_bricks_of(const uint8_t * brick, int32_t to_next, int32_t r, uint32_t (&a)[n][4]) {
    SIMT_UNROLL
    for (int32_t i = 0; i < n; ++i) {
        brick_part<bits>::read(brick + i * to_next, r).centred(r, a[i]);
    }
}

// Rows r and r + 8 of n bricks of this width in shared memory, to_next bytes apart: as brick_part::centred; where there
// is no width, the middle.
template <int32_t n>
SIMT_FN void centred_bricks(int32_t width, const uint8_t * brick, int32_t to_next, int32_t r, uint32_t (&a)[n][4]) {
    switch (width) {
        case 2:
            return centred_bricks_of<2>(brick, to_next, r, a);
        case 3:
            return centred_bricks_of<3>(brick, to_next, r, a);
        case 4:
            return centred_bricks_of<4>(brick, to_next, r, a);
        case 5:
            return centred_bricks_of<5>(brick, to_next, r, a);
        case 6:
            return centred_bricks_of<6>(brick, to_next, r, a);
        case 8:
            return centred_bricks_of<8>(brick, to_next, r, a);
        default:
            break;
    }
    SIMT_UNROLL
    for (int32_t i = 0; i < 4 * n; ++i) {
        a[i / 4][i % 4] = 0xb800b800u;  // -1/2
    }
}

}  // namespace livekv::device
