#pragma once

// How a tile's sealed keys become halves in shared memory.

#include "kernels/cuda/rows_memory.cuh"

namespace livekv::device {

// Parts of a tile: 16 tokens by 16 channels, four bricks. Warp w takes those of tokens 16 (w % 2) and of channels
// 16 (w / 2 + 2 i); a lane has rows g and g + 8 of brick q.
template <int32_t head_dim>
constexpr int32_t parts_of_warp = head_dim / 16 * 2 / rows_warps;

SIMT_FN void copy_codes(const uint8_t * from, int32_t n_bytes, uint8_t * to) {
    for (int32_t i = 16 * simt::thread(); i < n_bytes; i += 16 * rows_threads) {
        simt::copy_16(to + i, from + i, true);
    }
}

template <int32_t bits>
SIMT_FN void write_part(const brick_part<bits> & part, const simt::four_words & grid, uint8_t * row, uint8_t * row_8) {
    uint32_t a[4];
    part.centred(simt::lane() / 4, a);
    scaled(a, grid);
    const auto natural = [](uint32_t even, uint32_t odd) {  // columns 0 2 | 1 3 to 0 1 | 2 3
        return simt::two_words{{simt::bytes_of(even, odd, 0x5410u), simt::bytes_of(even, odd, 0x7632u)}};
    };
    *simt::as<simt::two_words>(row) = natural(a[0], a[2]);
    *simt::as<simt::two_words>(row_8) = natural(a[1], a[3]);
}

template <int32_t head_dim, int32_t bits>
class key_stage {
  public:
    using memory = rows_key_memory<head_dim, bits>;

    SIMT_MEMBER key_stage(memory & m) : memory_(m) {}

    // All by all threads of the block, with barriers between them. fetch: on its way until wait_copies.
    SIMT_MEMBER void fetch(const device_side & s, const uint8_t * block, const tile_place & p) const {
        const int32_t sixteens = kv_ceil_div(s.n_stored - p.first, 16);
        copy_codes(block + s.codes + key_bricks(p.first / 16) * (8 * bits),
                   (sixteens < 2 ? sixteens : 2) * static_cast<int32_t>(key_bricks(1)) * (8 * bits), memory_.codes);
    }

    // keys: f16 [32, head_dim] (piece_of). Tokens that are not stored get whatever lies there: their scores are hidden.
    SIMT_MEMBER void unpack(const device_side & s, const uint8_t * block, const tile_place & p, uint8_t * keys) const {
        const int32_t group = p.first / s.group * head_dim;
        const int32_t token = simt::warp() % 2 * 16 + simt::lane() / 4;
        SIMT_UNROLL
        for (int32_t i = 0; i < parts_of_warp<head_dim>; ++i) {
            const int32_t sixteen = simt::warp() / 2 + 2 * i;  // of channels
            const int32_t channel = sixteen * 16 + simt::lane() % 4 * 4;
            const size_t brick = key_bricks(simt::warp() % 2) + static_cast<size_t>(channel / 4);
            write_part(brick_part<bits>::read(memory_.codes + brick * (8 * bits), simt::lane() / 4),
                       key_grid_of(s, block, group + channel),
                       keys + piece_of<2 * head_dim>(token, channel / 8) + channel % 8 * 2,
                       keys + piece_of<2 * head_dim>(token + 8, channel / 8) + channel % 8 * 2);
        }
    }

  private:
    SIMT_MEMBER static constexpr size_t key_bricks(int32_t n_sixteens) {
        return static_cast<size_t>(n_sixteens) * (head_dim / 4);
    }

    memory & memory_;
};

}  // namespace livekv::device
