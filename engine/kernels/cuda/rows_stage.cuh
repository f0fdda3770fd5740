#pragma once

// How a tile of 32 tokens comes into shared memory for prefill: its codes as they are (cp.async, while the tile before
// is multiplied), from there as halves, where outliers are added. Exact rows are copied to where halves belong at once.

#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/tiles.cuh"

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

template <int32_t head_dim, int32_t k_bits, int32_t v_bits>
struct rows_memory {
    static constexpr int32_t row_bytes = 2 * head_dim;
    static constexpr int32_t tile_values = kv_tile_tokens * head_dim;

    alignas(128) uint8_t q[rows_of_block * row_bytes];  // f16 [128, head_dim], pieces exchanged (piece_of)
    alignas(128) uint8_t k[2][2 * tile_values];         // f16 [32, head_dim], likewise
    alignas(128) uint8_t v[2][2 * tile_values];         // sealed: f16 [head_dim, 32]; exact: [32, head_dim]; likewise
    alignas(128) uint8_t k_codes[tile_values * k_bits / 8];  // bricks of a tile as they lie in the block
    alignas(128) uint8_t v_codes[tile_values * v_bits / 8];
    float power[rows_of_block];  // of the scaled queries
};

template <int32_t head_dim, int32_t k_bits, int32_t v_bits>
class tile_stage {
  public:
    using memory = rows_memory<head_dim, k_bits, v_bits>;

    SIMT_MEMBER tile_stage(const device_attention & a, memory & m, int32_t head) : a_(a), memory_(m), head_(head) {}

    // All by all threads of the block, with barriers between them. fetch: on its way until wait_copies.
    SIMT_MEMBER void fetch(const tile_place & p, int32_t turn) const {
        const device_chunk & c = chunk_at(a_, p.chunk);
        if (c.k.block_bytes == 0) {
            copy_rows(c.k, p, memory_.k[turn]);
        } else {
            const int32_t sixteens = kv_ceil_div(c.k.n_stored - p.first, 16);
            copy_codes(block_of(c.k, head_) + c.k.codes + key_bricks(p.first / 16) * (8 * k_bits),
                       (sixteens < 2 ? sixteens : 2) * static_cast<int32_t>(key_bricks(1)) * (8 * k_bits),
                       memory_.k_codes);
        }
        if (c.v.block_bytes == 0) {
            copy_rows(c.v, p, memory_.v[turn]);
        } else {
            const int32_t tile = p.first / kv_tile_tokens;
            copy_codes(block_of(c.v, head_) + c.v.codes + kv_value_tile_brick(head_dim, tile) * (8 * v_bits),
                       head_dim / 16 * kv_value_tile_quads(c.v.n_stored, tile) * (8 * v_bits), memory_.v_codes);
        }
    }

    SIMT_MEMBER void unpack(const tile_place & p, int32_t turn) const {
        const device_chunk & c = chunk_at(a_, p.chunk);
        value_scales four = {};
        if (c.v.block_bytes != 0) {  // on their way while keys are unpacked
            four = value_scales_of(c.v, block_of(c.v, head_), p.first + 4 * quad_of_lane());
        }
        if (c.k.block_bytes != 0) {
            unpack_keys(c.k, p.first, memory_.k[turn]);
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

  private:
    // Parts of a tile: 16 tokens by 16 channels, four bricks. Warp w takes those of tokens 16 (w % 2) and of channels
    // 16 (w / 2 + 2 i); a lane has rows g and g + 8 of brick q.
    static constexpr int32_t n_parts = head_dim / 16 * 2 / rows_warps;

    SIMT_MEMBER static int32_t quad_of_lane() { return simt::warp() % 2 * 4 + simt::lane() % 4; }

    SIMT_MEMBER static constexpr size_t key_bricks(int32_t n_sixteens) {
        return static_cast<size_t>(n_sixteens) * (head_dim / 4);
    }

    SIMT_MEMBER static void copy_codes(const uint8_t * from, int32_t n_bytes, uint8_t * to) {
        for (int32_t i = 16 * simt::thread(); i < n_bytes; i += 16 * rows_threads) {
            simt::copy_16(to + i, from + i, true);
        }
    }
    SIMT_MEMBER void copy_rows(const device_side & s, const tile_place & p, uint8_t * to) const {
        for (int32_t i = simt::thread(); i < kv_tile_tokens * (head_dim / 8); i += rows_threads) {
            const int32_t t = i / (head_dim / 8);
            const int32_t piece = i % (head_dim / 8);
            const bool there = t < p.end;
            simt::copy_16(to + piece_of<2 * head_dim>(t, piece),
                          row_of(a_, s, head_, there ? p.first + t : p.first, 8 * piece), there);
        }
    }

    // Tokens that are not stored get whatever lies there: their scores are hidden.
    SIMT_MEMBER void unpack_keys(const device_side & s, int32_t first, uint8_t * keys) const {
        const uint8_t * const block = block_of(s, head_);
        const int32_t group = first / s.group * head_dim;
        const int32_t token = simt::warp() % 2 * 16 + simt::lane() / 4;
        SIMT_UNROLL
        for (int32_t i = 0; i < n_parts; ++i) {
            const int32_t sixteen = simt::warp() / 2 + 2 * i;  // of channels
            const int32_t channel = sixteen * 16 + simt::lane() % 4 * 4;
            const size_t brick = key_bricks(simt::warp() % 2) + static_cast<size_t>(channel / 4);
            write(brick_part<k_bits>::read(memory_.k_codes + brick * (8 * k_bits), simt::lane() / 4),
                  key_grid_of(s, block, group + channel),
                  keys + piece_of<2 * head_dim>(token, channel / 8) + channel % 8 * 2,
                  keys + piece_of<2 * head_dim>(token + 8, channel / 8) + channel % 8 * 2);
        }
    }
    // Tokens that are not stored have a scale of 0.
    SIMT_MEMBER void unpack_values(const device_side & s, int32_t first, const value_scales & four,
                                   uint8_t * values) const {
        const int32_t n_quads = kv_value_tile_quads(s.n_stored, first / kv_tile_tokens);
        const int32_t quad = quad_of_lane();
        const simt::four_words grid = grid_of(four.scales, four.centres);
        SIMT_UNROLL
        for (int32_t i = 0; i < n_parts; ++i) {
            const int32_t sixteen = simt::warp() / 2 + 2 * i;
            const int32_t channel = sixteen * 16 + simt::lane() / 4;
            write(
                brick_part<v_bits>::read(memory_.v_codes + (sixteen * n_quads + quad) * (8 * v_bits), simt::lane() / 4),
                grid, values + piece_of<2 * kv_tile_tokens>(channel, quad / 2) + quad % 2 * 8,
                values + piece_of<2 * kv_tile_tokens>(channel + 8, quad / 2) + quad % 2 * 8);
        }
    }

    template <int32_t bits>
    SIMT_MEMBER static void write(const brick_part<bits> & part, const simt::four_words & grid, uint8_t * row,
                                  uint8_t * row_8) {
        uint32_t a[4];
        part.centred(simt::lane() / 4, a);
        scaled(a, grid);
        const auto natural = [](uint32_t even, uint32_t odd) {  // columns 0 2 | 1 3 to 0 1 | 2 3
            return simt::two_words{{simt::bytes_of(even, odd, 0x5410u), simt::bytes_of(even, odd, 0x7632u)}};
        };
        *simt::as<simt::two_words>(row) = natural(a[0], a[2]);
        *simt::as<simt::two_words>(row_8) = natural(a[1], a[3]);
    }

    SIMT_MEMBER static void add(uint8_t * at, uint16_t x) {
        auto * const h = simt::as<uint16_t>(at);
        *h = simt::to_half(simt::to_float(*h) + simt::to_float(x));
    }

    const device_attention & a_;
    memory & memory_;
    int32_t head_;
};

}  // namespace livekv::device
