#pragma once

// What rows_stage does of keys in classes of width: their codes become halves in the channels' natural order, without
// their levels. What levels add to a row's scores is made once a group, as two more keys: the levels' upper and lower
// halves, times the queries as they are multiplied by the codes, so that a query's rounding is the same for all keys.

#include "kernels/cuda/rows_keys.cuh"

namespace livekv::device {

template <int32_t head_dim>
class key_stage<head_dim, bits_by_class> {
  public:
    using memory = rows_key_memory<head_dim, bits_by_class>;

    SIMT_MEMBER key_stage(memory & m) : memory_(m) {}

    // All by all threads of the block, with barriers between them. fetch: on its way until wait_copies.
    SIMT_MEMBER void fetch(const device_side & s, const uint8_t * block, const tile_place & p) {
        fetched_another_ = fetch_classes(s, block, p, simt::thread(), rows_threads, position_, memory_.block);
    }

    // keys: f16 [32, head_dim] (piece_of).
    SIMT_MEMBER void unpack(const device_side & s, const uint8_t *, const tile_place &, uint8_t * keys) {
        another_ = fetched_another_;
        const uint32_t place_of_mine = place_of_lane(memory_.block);
        const int32_t token = simt::warp() % 2 * 16 + simt::lane() / 4;
        SIMT_UNROLL_2
        for (int32_t i = 0; i < parts_of_warp<head_dim>; ++i) {
            const int32_t quad = (simt::warp() / 2 + 2 * i) * 4 + simt::lane() % 4;
            const uint32_t place = simt::shuffle(place_of_mine, quad);
            uint32_t a[1][4];
            centred_bricks(static_cast<int32_t>(place & 255u),
                           memory_.block.codes + simt::warp() % 2 * (8 * s.width_sum) + (place >> 8), 0,
                           simt::lane() / 4, a);
            scaled(a[0], memory_.block.quad_grid(quad));
            SIMT_UNROLL
            for (int32_t j = 0; j < 4; ++j) {
                const int32_t channel = memory_.block.order[4 * quad + j];
                SIMT_UNROLL
                for (int32_t half = 0; half < 2; ++half) {  // columns 0 and 2 in the first two words, 1 and 3
                    const uint32_t pair = a[0][j % 2 * 2 + half];
                    *simt::as<uint16_t>(keys + piece_of<2 * head_dim>(token + 8 * half, channel / 8) +
                                        channel % 8 * 2) = static_cast<uint16_t>(pair >> (16 * (j / 2)));
                }
            }
        }
        for (int32_t i = simt::thread(); another_ && i < head_dim; i += rows_threads) {
            const float level = memory_.block.level(i);
            const uint16_t upper = simt::to_half(level);
            const int32_t channel = memory_.block.order[i];
            memory_.levels[0][channel] = upper;
            memory_.levels[1][channel] = simt::to_half(level - simt::to_float(upper));
        }
    }

    // Whether the tile unpacked last is the first of its group that this block of threads has.
    SIMT_MEMBER bool another_group() const { return another_; }

    // A fragment of the levels for channels 16 t and up: rows 0 and 1.
    SIMT_MEMBER void levels(int32_t t, uint32_t (&a)[4]) const {
        const int32_t g = simt::lane() / 4;
        const int32_t first = 16 * t + simt::lane() % 4 * 2;
        a[0] = g < 2 ? *simt::as<uint32_t>(memory_.levels[g % 2] + first) : 0u;
        a[1] = 0u;
        a[2] = g < 2 ? *simt::as<uint32_t>(memory_.levels[g % 2] + first + 8) : 0u;
        a[3] = 0u;
    }

  private:
    memory & memory_;
    class_position position_;  // of the tile fetched last
    bool fetched_another_ = false;
    bool another_ = false;
};

}  // namespace livekv::device
