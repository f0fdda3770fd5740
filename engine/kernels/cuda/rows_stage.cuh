#pragma once

// How a tile of 32 tokens comes into shared memory for prefill: its codes as they are (cp.async, while the tile before
// is multiplied), from there as halves, where outliers are added. Exact rows are copied to where halves belong at once.

#include "kernels/cuda/rows_classes.cuh"
#include "kernels/cuda/rows_keys.cuh"

namespace livekv::device {

template <int32_t head_dim, int32_t k_bits, int32_t v_bits>
class tile_stage {
  public:
    using memory = rows_memory<head_dim, k_bits, v_bits>;

    SIMT_MEMBER tile_stage(const device_attention & a, memory & m, int32_t head)
        : a_(a), memory_(m), keys_(m.keys), head_(head) {}

    // All by all threads of the block, with barriers between them. fetch: on its way until wait_copies.
    SIMT_MEMBER void fetch(const tile_place & p, int32_t turn) {
        const device_chunk & c = chunk_at(a_, p.chunk);
        if (c.k.block_bytes == 0) {
            copy_rows(c.k, p, memory_.k[turn]);
        } else {
            keys_.fetch(c.k, block_of(c.k, head_), p);
        }
        if (c.v.block_bytes == 0) {
            copy_rows(c.v, p, memory_.v[turn]);
        } else {
            const int32_t tile = p.first / kv_tile_tokens;
            copy_codes(block_of(c.v, head_) + c.v.codes + kv_value_tile_brick(head_dim, tile) * (8 * v_bits),
                       head_dim / 16 * kv_value_tile_quads(c.v.n_stored, tile) * (8 * v_bits), memory_.v_codes);
        }
    }

    SIMT_MEMBER void unpack(const tile_place & p, int32_t turn) {
        const device_chunk & c = chunk_at(a_, p.chunk);
        value_scales four = {};
        if (c.v.block_bytes != 0) {  // on their way while keys are unpacked
            four = value_scales_of(c.v, block_of(c.v, head_), p.first + 4 * quad_of_lane());
        }
        if (c.k.block_bytes != 0) {
            keys_.unpack(c.k, block_of(c.k, head_), p, memory_.k[turn]);
        }
        if (c.v.block_bytes != 0) {
            unpack_values(c.v, p.first, four, memory_.v[turn]);
        }
    }

    // Added to what their codes stand for. Ends with a barrier where there are any.
    SIMT_MEMBER void add_outliers(const tile_place & p, int32_t turn) const {
        const device_chunk & c = chunk_at(a_, p.chunk);
        const bool k_apart = c.k.block_bytes != 0 && c.k.n_outliers > 0;
        const bool v_apart = c.v.block_bytes != 0 && c.v.n_outliers > 0;
        if (k_apart) {
            const uint8_t * const block = block_of(c.k, head_);
            const outlier_span span = key_outliers_of(c.k, block, p.first / kv_tile_tokens);
            for (uint32_t i = span.first + static_cast<uint32_t>(simt::thread()); i < span.last; i += rows_threads) {
                const int32_t place = static_cast<int32_t>(outlier_place_at(c.k, block, i));
                const int32_t channel = place & 0x7ff;
                add(memory_.k[turn] + piece_of<2 * head_dim>(place >> 11, channel / 8) + channel % 8 * 2,
                    outlier_at(c.k, block, i));
            }
        }
        if (v_apart) {
            const uint8_t * const block = block_of(c.v, head_);
            const int32_t each = c.v.n_outliers;
            const int32_t n = c.v.n_stored - p.first < kv_tile_tokens ? c.v.n_stored - p.first : kv_tile_tokens;
            for (int32_t i = simt::thread(); i < n * each; i += rows_threads) {
                const int32_t t = i / each;
                const uint32_t at = static_cast<uint32_t>(p.first * each + i);
                const int32_t channel = static_cast<int32_t>(outlier_place_at(c.v, block, at));
                add(memory_.v[turn] + piece_of<2 * kv_tile_tokens>(channel, t / 8) + t % 8 * 2,
                    outlier_at(c.v, block, at));
            }
        }
        if (k_apart || v_apart) {
            simt::sync();
        }
    }

    SIMT_MEMBER const key_stage<head_dim, k_bits> & keys() const { return keys_; }

  private:
    SIMT_MEMBER static int32_t quad_of_lane() { return simt::warp() % 2 * 4 + simt::lane() % 4; }

    SIMT_MEMBER void copy_rows(const device_side & s, const tile_place & p, uint8_t * to) const {
        for (int32_t i = simt::thread(); i < kv_tile_tokens * (head_dim / 8); i += rows_threads) {
            const int32_t t = i / (head_dim / 8);
            const int32_t piece = i % (head_dim / 8);
            const bool there = t < p.end;
            simt::copy_16(to + piece_of<2 * head_dim>(t, piece),
                          row_of(a_, s, head_, there ? p.first + t : p.first, 8 * piece), there);
        }
    }

    // Tokens that are not stored have a scale of 0.
    SIMT_MEMBER void unpack_values(const device_side & s, int32_t first, const value_scales & four,
                                   uint8_t * values) const {
        const int32_t n_quads = kv_value_tile_quads(s.n_stored, first / kv_tile_tokens);
        const int32_t quad = quad_of_lane();
        const simt::four_words grid = grid_of(four.scales, four.centres);
        SIMT_UNROLL
        for (int32_t i = 0; i < parts_of_warp<head_dim>; ++i) {
            const int32_t sixteen = simt::warp() / 2 + 2 * i;
            const int32_t channel = sixteen * 16 + simt::lane() / 4;
            write_part(
                brick_part<v_bits>::read(memory_.v_codes + (sixteen * n_quads + quad) * (8 * v_bits), simt::lane() / 4),
                grid, values + piece_of<2 * kv_tile_tokens>(channel, quad / 2) + quad % 2 * 8,
                values + piece_of<2 * kv_tile_tokens>(channel + 8, quad / 2) + quad % 2 * 8);
        }
    }

    SIMT_MEMBER static void add(uint8_t * at, uint16_t x) {
        auto * const h = simt::as<uint16_t>(at);
        *h = simt::to_half(simt::to_float(*h) + simt::to_float(x));
    }

    const device_attention & a_;
    memory & memory_;
    key_stage<head_dim, k_bits> keys_;
    int32_t head_;
};

}  // namespace livekv::device
