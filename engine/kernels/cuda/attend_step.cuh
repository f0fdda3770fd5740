#pragma once

// Decode: few query rows over a long context, as fast as the blocks can be read. Every warp takes a stretch of tiles of
// its own, straight from global memory into registers, and keeps its own running softmax; the warps of a block of
// threads are joined in shared memory, the blocks by join_spans_kernel. Up to 8 query rows of a kv head at once: the
// query heads that share it.
//
//   scores^T [16 tokens, 8 rows]    = keys [16 tokens, 16 channels]    x  q^T [16 channels, 8 rows]     (mma)
//   out^T    [16 channels, 8 rows] += values^T [16 channels, 16 tokens] x  p^T [16 tokens, 8 rows]       (mma)
//
// A brick of 4-bit codes lies as the lanes hold A: lane (g, q) reads word g of brick q, 128 bytes a warp, and has rows
// g and g + 8. Channels are summed in the order 0 2 | 1 3 of each four, for q as for keys. For the second product a
// lane's four columns must be tokens of one brick; so keys are read with rows 1 and 2, and 5 and 6, exchanged
// (brick_token): then two transposes and one exchange between neighbours turn scores into weights where they are
// needed.

#include "kernels/cuda/query.cuh"
#include "kernels/cuda/step_classes.cuh"
#include "kernels/cuda/step_scores.cuh"
#include "kernels/cuda/step_values.cuh"

namespace livekv::device {

template <int32_t head_dim, int32_t k_bits, int32_t v_bits>
class step_warp {
  public:
    SIMT_MEMBER step_warp(const device_attention & a, step_shared<head_dim, k_bits> & memory, float * outliers,
                          int32_t head, int32_t first_row)
        : a_(a),
          keys_(a, memory.common, memory.keys[simt::warp()], head, first_row),
          values_(a, memory.common, outliers, head) {}

    // Tiles first ... last - 1.
    SIMT_MEMBER void run(int32_t first, int32_t last) {
        if (first >= last) {
            return;
        }
        int32_t chunk = chunk_of_tile(a_, first);
        tile_place p = place_in(chunk_at(a_, chunk), chunk, first);
        for (int32_t tile = first; tile < last;) {
            if (is_sealed(p)) {
                tile = run_sealed(tile, last, chunk, p);
            } else {
                take_exact(p);
                p = after(tile++, last, chunk, p);
            }
        }
    }

    // What this warp has, for the others of the block.
    SIMT_MEMBER void leave(step_memory<head_dim> & memory) { values_.leave(memory); }

  private:
    SIMT_MEMBER bool is_sealed(const tile_place & p) const {
        const device_chunk & c = chunk_at(a_, p.chunk);
        return c.k.block_bytes != 0 && c.v.block_bytes != 0;
    }

    // The tile after this one, or the same where it is the last.
    SIMT_MEMBER tile_place after(int32_t tile, int32_t last, int32_t & chunk, const tile_place & p) const {
        if (tile + 1 >= last) {
            return p;
        }
        chunk = chunk_of_next(a_, tile + 1, chunk);
        return place_in(chunk_at(a_, chunk), chunk, tile + 1);
    }

    // Sealed tiles from p on; returns the first that is not, or last. The next keys are under way while a tile's
    // weights are made.
    SIMT_MEMBER int32_t run_sealed(int32_t tile, int32_t last, int32_t & chunk, tile_place & p) {
        keys_.find_outliers(p);
        keys_.load(p);
        for (bool more = true; more; ++tile) {
            const device_chunk & c = chunk_at(a_, p.chunk);
            values_.load(p);
            const tile_place next = after(tile, last, chunk, p);
            const outlier_span listed = keys_.listed();
            more = tile + 1 < last && is_sealed(next);
            if (more) {
                keys_.find_outliers(next);
            }
            float s[2][4];
            keys_.of_codes(c.k, p, listed, s);
            keys_.hide(p, false, s);
            if (more) {
                keys_.load(next);
            }
            values_.soften(s);
            values_.add(c.v, p, s);
            p = next;
        }
        return tile;
    }

    // A tile with exact keys or values. They are few: one thing after the other, which takes fewer registers.
    SIMT_MEMBER void take_exact(const tile_place & p) {
        const device_chunk & c = chunk_at(a_, p.chunk);
        float s[2][4];
        if (c.k.block_bytes == 0) {
            keys_.of_rows(c, p, s);
        } else {
            keys_.find_outliers(p);
            keys_.load(p);
            keys_.of_codes(c.k, p, keys_.listed(), s);
        }
        keys_.hide(p, p.chunk == a_.n_chunks + 1, s);
        values_.soften(s);
        if (c.v.block_bytes == 0) {
            values_.add_rows(c.v, p);
        } else {
            values_.load(p);
            values_.add(c.v, p, s);
        }
    }

    const device_attention & a_;
    step_scores<head_dim, k_bits> keys_;
    step_values<head_dim, v_bits> values_;
};

// Blocks of threads a multiprocessor shall hold, as the words of a tile leave registers for: more have more bytes on
// their way.
template <int32_t head_dim, int32_t k_bits, int32_t v_bits>
constexpr int32_t step_blocks = head_dim == 64                               ? 4
                                : k_bits < 0 || (k_bits == 4 && v_bits == 4) ? 3
                                                                             : 2;

// Grid: x: spans, y: kv heads times tiles of 8 rows.
template <int32_t head_dim, int32_t k_bits, int32_t v_bits, bool value_outliers>
SIMT_KERNEL void SIMT_BOUNDS(step_threads, (step_blocks<head_dim, k_bits, v_bits>))
    attend_step_kernel(const SIMT_PARAM device_attention a) {
    auto & shared = *simt::as<step_shared<head_dim, k_bits>>(simt::shared());
    step_memory<head_dim> & memory = shared.common;
    auto * const outliers = reinterpret_cast<float *>(&shared + 1);
    const int32_t head = simt::block_y() % a.n_head_kv;
    const int32_t first_row = simt::block_y() / a.n_head_kv * step_rows;
    for (int32_t r = simt::warp(); r < step_rows; r += step_warps) {
        float x[head_dim / 32];
        const float power = scaled_query<head_dim>(a, head, first_row + r, x);
        SIMT_UNROLL
        for (int32_t i = 0; i < head_dim / 32; ++i) {
            // Levels of keys are multiplied by what their codes are, in f16: an error of a query is the same for all.
            memory.q[simt::lane() + 32 * i][r] = k_bits == bits_by_class ? simt::to_float(simt::to_half(x[i])) : x[i];
        }
        if (simt::lane() == 0) {
            memory.power[r] = power;
        }
    }
    simt::sync();
    for (int32_t t = simt::warp(); t < head_dim / 16; t += step_warps) {
        const auto at = [&](int32_t i) { return memory.q[16 * t + simt::lane() % 4 * 4 + i][simt::lane() / 4]; };
        memory.query[t][simt::lane()] = {{simt::to_halves(at(0), at(2)), simt::to_halves(at(1), at(3))}};
    }
    simt::sync();
    step_warp<head_dim, k_bits, v_bits> mine(
        a, shared, value_outliers ? outliers + simt::warp() * head_dim * step_rows : nullptr, head, first_row);
    const int64_t n_workers = static_cast<int64_t>(a.n_spans) * step_warps;
    const int64_t worker = static_cast<int64_t>(simt::block_x()) * step_warps + simt::warp();
    mine.run(static_cast<int32_t>(a.n_tiles() * worker / n_workers),
             static_cast<int32_t>(a.n_tiles() * (worker + 1) / n_workers));
    simt::sync_warp();
    mine.leave(memory);
    simt::sync();
    for (int32_t i = simt::thread(); i < step_rows * head_dim; i += step_threads) {
        const int32_t r = i / head_dim;
        const int32_t c = i % head_dim;
        if (first_row + r >= a.n_rows()) {
            continue;
        }
        float m = no_score;
        for (int32_t w = 0; w < step_warps; ++w) {
            m = simt::larger(m, memory.m[w][r]);
        }
        float l = 0.0f;
        float o = 0.0f;
        for (int32_t w = 0; w < step_warps; ++w) {
            const float factor = simt::exp2(memory.m[w][r] - m);
            l += memory.l[w][r] * factor;
            o += memory.o[w][r][c] * factor;
        }
        const int64_t state = a.state_of(simt::block_x(), head, first_row + r);
        a.partial_o[state * head_dim + c] = o;
        if (c == 0) {
            a.partial_m[state] = m;
            a.partial_l[state] = l;
        }
    }
}

}  // namespace livekv::device
