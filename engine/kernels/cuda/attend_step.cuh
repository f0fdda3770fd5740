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

#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/query.cuh"

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

    float q[head_dim][step_rows];                     // scaled
    simt::two_words query[n_steps][simt::warp_size];  // the same as each lane's B fragments: registers are scarce
    float power[step_rows];
    struct each_warp {
        simt::four_words key_grid[head_dim / 4];
        float scores[kv_tile_tokens][step_rows];  // what outliers add; then weights, where values have outliers
        float factor[step_rows];
    } warps[step_warps];
    float m[step_warps][step_rows];
    float l[step_warps][step_rows];
    float o[step_warps][step_rows][head_dim];
};

// As many floats of shared memory behind step_memory when values have outliers: [step_warps, head_dim, step_rows].
template <int32_t head_dim>
constexpr size_t step_outlier_floats = static_cast<size_t>(step_warps) * head_dim * step_rows;

template <int32_t head_dim, int32_t k_bits, int32_t v_bits>
class step_warp {
  public:
    SIMT_MEMBER step_warp(const device_attention & a, step_memory<head_dim> & memory, float * outliers, int32_t head,
                          int32_t first_row)
        : a_(a),
          mine_(memory.warps[simt::warp()]),
          q_of_(memory.q),
          query_(memory.query),
          o_of_(outliers),
          power_(memory.power),
          head_(head),
          first_row_(first_row),
          g_(simt::lane() / 4),
          q_(simt::lane() % 4) {
        for (int32_t i = simt::lane(); o_of_ && i < head_dim * step_rows; i += simt::warp_size) {
            o_of_[i] = 0.0f;
        }
    }

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
    SIMT_MEMBER void leave(step_memory<head_dim> & memory) {
        SIMT_UNROLL
        for (int32_t j = 0; j < 2; ++j) {
            SIMT_UNROLL
            for (int32_t step = 4; step < 32; step *= 2) {
                l_[j] += simt::shuffle_xor(l_[j], step);
            }
            if (g_ == 0) {
                memory.m[simt::warp()][2 * q_ + j] = m_[j];
                memory.l[simt::warp()][2 * q_ + j] = l_[j];
            }
            SIMT_UNROLL
            for (int32_t t = 0; t < n_steps; ++t) {
                SIMT_UNROLL
                for (int32_t half = 0; half < 2; ++half) {
                    const int32_t c = 16 * t + 8 * half + g_;
                    const float apart = o_of_ ? o_of_[c * step_rows + 2 * q_ + j] : 0.0f;
                    memory.o[simt::warp()][2 * q_ + j][c] = o_[t][2 * half + j] + apart;
                }
            }
        }
    }

  private:
    static constexpr int32_t n_steps = head_dim / 16;

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
        find_outliers(p);
        load_keys(p);
        for (bool more = true; more; ++tile) {
            const device_chunk & c = chunk_at(a_, p.chunk);
            load_values(p);
            const tile_place next = after(tile, last, chunk, p);
            const outlier_span listed = span_;
            more = tile + 1 < last && is_sealed(next);
            if (more) {
                find_outliers(next);
            }
            float s[2][4];
            score_codes(c.k, p, listed, s);
            hide(p, false, s);
            if (more) {
                load_keys(next);
            }
            soften(s);
            add_values();
            if (o_of_) {
                add_value_outliers(c.v, p, s);
            }
            p = next;
        }
        return tile;
    }

    // A tile with exact keys or values. They are few: one thing after the other, which takes fewer registers.
    SIMT_MEMBER void take_exact(const tile_place & p) {
        const device_chunk & c = chunk_at(a_, p.chunk);
        float s[2][4];
        if (c.k.block_bytes == 0) {
            score_rows(c, p, s);
        } else {
            find_outliers(p);
            load_keys(p);
            score_codes(c.k, p, span_, s);
        }
        hide(p, p.chunk == a_.n_chunks + 1, s);
        soften(s);
        if (c.v.block_bytes == 0) {
            add_rows(c.v, p);
            return;
        }
        load_values(p);
        add_values();
        if (o_of_) {
            add_value_outliers(c.v, p, s);
        }
    }

    // Where a tile's key outliers are listed, a tile ahead of reading them (load_keys).
    SIMT_MEMBER void find_outliers(const tile_place & p) {
        const device_side & s = chunk_at(a_, p.chunk).k;
        span_ = key_outliers_of(s, block_of(s, head_), p.first / kv_tile_tokens);
    }

    // Place and value of outlier number i, or 0.
    SIMT_MEMBER uint32_t load_outlier(const device_side & s, uint32_t i, uint32_t last) const {
        const uint8_t * const block = block_of(s, head_);
        return i < last ? outlier_place_at(s, block, i) << 16 | outlier_at(s, block, i) : 0u;
    }

    SIMT_MEMBER void load_keys(const tile_place & p) {
        const device_side & s = chunk_at(a_, p.chunk).k;
        apart_ = load_outlier(s, span_.first + static_cast<uint32_t>(simt::lane()), span_.last);
        const uint8_t * const codes = block_of(s, head_) + s.codes;
        SIMT_UNROLL
        for (int32_t i = 0; i < 2; ++i) {
            const int32_t sixteen = p.first / 16 + i;
            const bool there = 16 * sixteen < s.n_stored;
            SIMT_UNROLL
            for (int32_t t = 0; t < n_steps; ++t) {
                const size_t brick = static_cast<size_t>(sixteen) * (head_dim / 4) + static_cast<size_t>(4 * t + q_);
                keys_[i][t] = there ? brick_part<k_bits>::load(codes + brick * (8 * k_bits), brick_token(g_))
                                    : brick_part<k_bits>::zeros();
            }
        }
    }

    SIMT_MEMBER void load_values(const tile_place & p) {
        const device_side & s = chunk_at(a_, p.chunk).v;
        const int32_t tile = p.first / kv_tile_tokens;
        const int32_t n_quads = kv_value_tile_quads(s.n_stored, tile);
        const uint8_t * const codes = block_of(s, head_) + s.codes + kv_value_tile_brick(head_dim, tile) * (8 * v_bits);
        SIMT_UNROLL
        for (int32_t i = 0; i < 2; ++i) {
            const int32_t quad = 4 * i + quad_of_lane();
            scales_[i] = value_scales_of(s, block_of(s, head_), p.first + 4 * quad);
            SIMT_UNROLL
            for (int32_t t = 0; t < n_steps; ++t) {
                values_[i][t] = quad < n_quads
                                    ? brick_part<v_bits>::load(codes + (t * n_quads + quad) * (8 * v_bits), g_)
                                    : brick_part<v_bits>::zeros();
            }
        }
    }

    // The four tokens of 16 whose weights this lane holds (soften).
    SIMT_MEMBER int32_t quad_of_lane() const { return quad_of(q_); }
    SIMT_MEMBER static int32_t quad_of(int32_t q) { return q / 2 + q % 2 * 2; }

    // Scores before their unit. s[i]: tokens 16 i + brick_token(g) (0, 1) and + 8 (2, 3) of the tile, rows 2q and 2q
    // + 1.
    SIMT_MEMBER void score_codes(const device_side & side, const tile_place & p, const outlier_span & listed,
                                 float (&s)[2][4]) {
        clear(s);
        prepare_grid(side, block_of(side, head_), p);
        start_with_outliers(side, listed, s);
        SIMT_UNROLL
        for (int32_t t = 0; t < n_steps; ++t) {
            const simt::four_words grid = mine_.key_grid[4 * t + q_];
            const simt::two_words query = query_[t][simt::lane()];
            SIMT_UNROLL
            for (int32_t i = 0; i < 2; ++i) {
                uint32_t a[4];
                keys_[i][t].centred(brick_token(g_), a);
                scaled(a, grid);
                simt::mma(s[i], a, query.w[0], query.w[1]);
            }
        }
    }

    SIMT_MEMBER void score_rows(const device_chunk & c, const tile_place & p, float (&s)[2][4]) const {
        clear(s);
        SIMT_UNROLL
        for (int32_t i = 0; i < 2; ++i) {
            const int32_t token = p.first + 16 * i + brick_token(g_);
            SIMT_UNROLL
            for (int32_t t = 0; t < n_steps; ++t) {
                const simt::two_words query = query_[t][simt::lane()];
                const simt::two_words low = key_row(c, token, 16 * t + 4 * q_);
                const simt::two_words high = key_row(c, token + 8, 16 * t + 4 * q_);
                const uint32_t a[4] = {
                    simt::bytes_of(low.w[0], low.w[1], 0x5410u), simt::bytes_of(high.w[0], high.w[1], 0x5410u),
                    simt::bytes_of(low.w[0], low.w[1], 0x7632u), simt::bytes_of(high.w[0], high.w[1], 0x7632u)};
                simt::mma(s[i], a, query.w[0], query.w[1]);
            }
        }
    }

    SIMT_MEMBER static void clear(float (&s)[2][4]) {
        SIMT_UNROLL
        for (int32_t i = 0; i < 8; ++i) {
            s[i / 4][i % 4] = 0.0f;
        }
    }

    // Scores into their unit, and those of tokens a row does not see out of sight.
    SIMT_MEMBER void hide(const tile_place & p, bool open, float (&s)[2][4]) const {
        SIMT_UNROLL
        for (int32_t j = 0; j < 2; ++j) {
            const int32_t row = 2 * q_ + j;
            const float power = power_[row];
            const int32_t seen = open ? open_tokens_of(a_, first_row_ + row) - p.first : kv_tile_tokens;
            const int32_t end = seen < p.end ? seen : p.end;
            SIMT_UNROLL
            for (int32_t i = 0; i < 4; ++i) {
                float & x = s[i / 2][i % 2 * 2 + j];
                const int32_t token = 8 * i + brick_token(g_);
                x = token >= p.begin && token < end ? x * power : -INFINITY;
            }
        }
    }

    SIMT_MEMBER simt::two_words key_row(const device_chunk & c, int32_t token, int32_t channel) const {
        return token < c.n_tokens ? *simt::as<simt::two_words>(row_of(a_, c.k, head_, token, channel))
                                  : simt::two_words{};
    }

    // The key grids of the tile's group, in shared memory: every lane wants four channels of each 16.
    SIMT_MEMBER void prepare_grid(const device_side & s, const uint8_t * block, const tile_place & p) {
        const int32_t group = p.first / s.group;
        if (p.chunk == grid_chunk_ && group == grid_group_) {
            return;
        }
        grid_chunk_ = p.chunk;
        grid_group_ = group;
        simt::sync_warp();  // the last grid is no longer read
        for (int32_t i = simt::lane(); i < head_dim / 4; i += simt::warp_size) {
            mine_.key_grid[i] = key_grid_of(s, block, group * head_dim + 4 * i);
        }
        simt::sync_warp();
    }

    // A lane sums up what one token's outliers add to the scores, in the order of the list.
    SIMT_MEMBER void start_with_outliers(const device_side & side, const outlier_span & span, float (&s)[2][4]) {
        if (span.first == span.last) {
            return;
        }
        float sum[step_rows] = {};
        uint32_t both = apart_;
        for (uint32_t first = span.first; first < span.last; first += simt::warp_size) {
            if (first != span.first) {
                both = load_outlier(side, first + static_cast<uint32_t>(simt::lane()), span.last);
            }
            const int32_t n = static_cast<int32_t>(span.last - first < 32u ? span.last - first : 32u);
            for (int32_t j = 0; j < n; ++j) {
                const uint32_t one = simt::shuffle(both, j);
                if (static_cast<int32_t>(one >> 27) == simt::lane()) {
                    const float x = simt::to_float(static_cast<uint16_t>(one));
                    const float * const q = q_of_[one >> 16 & 0x7ffu];
                    SIMT_UNROLL
                    for (int32_t r = 0; r < step_rows; ++r) {
                        sum[r] += x * q[r];
                    }
                }
            }
        }
        simt::sync_warp();
        SIMT_UNROLL
        for (int32_t r = 0; r < step_rows; ++r) {
            mine_.scores[simt::lane()][r] = sum[r];
        }
        simt::sync_warp();
        SIMT_UNROLL
        for (int32_t i = 0; i < 2; ++i) {
            SIMT_UNROLL
            for (int32_t j = 0; j < 4; ++j) {
                s[i][j] = mine_.scores[16 * i + 8 * (j / 2) + brick_token(g_)][2 * q_ + j % 2];
            }
        }
    }

    // Scores become weights; what was summed up before is put into their unit. weights_: the B fragments, for each 16
    // tokens those of quad_of_lane: tokens 0, 2 and 1, 3.
    SIMT_MEMBER void soften(float (&s)[2][4]) {
        float factor[2];
        SIMT_UNROLL
        for (int32_t j = 0; j < 2; ++j) {
            float top = simt::larger(simt::larger(s[0][j], s[0][2 + j]), simt::larger(s[1][j], s[1][2 + j]));
            SIMT_UNROLL
            for (int32_t step = 4; step < 32; step *= 2) {
                top = simt::larger(top, simt::shuffle_xor(top, step));
            }
            const float m = simt::larger(m_[j], top);
            factor[j] = simt::exp2(m_[j] - m);
            m_[j] = m;
            float sum = 0.0f;
            SIMT_UNROLL
            for (int32_t i = 0; i < 2; ++i) {
                SIMT_UNROLL
                for (int32_t half = 0; half < 2; ++half) {
                    s[i][2 * half + j] = simt::exp2(s[i][2 * half + j] - m);
                    sum += s[i][2 * half + j];
                }
            }
            l_[j] = l_[j] * factor[j] + sum;
        }
        if (simt::ballot(factor[0] != 1.0f || factor[1] != 1.0f) != 0) {
            SIMT_UNROLL
            for (int32_t t = 0; t < n_steps; ++t) {
                SIMT_UNROLL
                for (int32_t j = 0; j < 4; ++j) {
                    o_[t][j] *= factor[j % 2];
                }
            }
            scale_outliers(factor);
        }
        const bool odd = (q_ & 1) != 0;
        SIMT_UNROLL
        for (int32_t i = 0; i < 2; ++i) {
            const uint32_t low = simt::transpose(simt::to_halves(s[i][0], s[i][1]));
            const uint32_t high = simt::transpose(simt::to_halves(s[i][2], s[i][3]));
            const uint32_t other = simt::shuffle_xor(odd ? low : high, 1);
            weights_[i][0] = odd ? other : low;
            weights_[i][1] = odd ? high : other;
        }
    }

    SIMT_MEMBER void add_values() {
        SIMT_UNROLL
        for (int32_t i = 0; i < 2; ++i) {
            const simt::four_words grid = grid_of(scales_[i].scales, scales_[i].centres);
            SIMT_UNROLL
            for (int32_t t = 0; t < n_steps; ++t) {
                uint32_t a[4];
                values_[i][t].centred(g_, a);
                scaled(a, grid);
                simt::mma(o_[t], a, weights_[i][0], weights_[i][1]);
            }
        }
    }

    // Exact values: pairs of channels of a token, which a transpose makes pairs of tokens of a channel.
    SIMT_MEMBER void add_rows(const device_side & side, const tile_place & p) {
        SIMT_UNROLL
        for (int32_t i = 0; i < 2; ++i) {
            // Row g of the matrices: the tokens of two columns of the weights, as quad_of_lane orders them.
            const int32_t token = 16 * i + 4 * quad_of(g_ / 2) + g_ % 2 * 2;
            const uint16_t * const even = row_of(a_, side, head_, p.first + token, 2 * q_);
            const uint16_t * const odd = row_of(a_, side, head_, p.first + token + 1, 2 * q_);
            const auto pair = [](const uint16_t * row, bool there, int32_t channel) {
                return simt::transpose(there ? *simt::as<uint32_t>(row + channel) : 0u);
            };
            SIMT_UNROLL
            for (int32_t t = 0; t < n_steps; ++t) {
                const bool even_there = token < p.end;
                const bool odd_there = token + 1 < p.end;
                const uint32_t a[4] = {pair(even, even_there, 16 * t), pair(even, even_there, 16 * t + 8),
                                       pair(odd, odd_there, 16 * t), pair(odd, odd_there, 16 * t + 8)};
                simt::mma(o_[t], a, weights_[i][0], weights_[i][1]);
            }
        }
    }

    SIMT_MEMBER void scale_outliers(const float (&factor)[2]) {
        if (!o_of_) {
            return;
        }
        simt::sync_warp();
        if (g_ == 0) {
            mine_.factor[2 * q_] = factor[0];
            mine_.factor[2 * q_ + 1] = factor[1];
        }
        simt::sync_warp();
        for (int32_t i = simt::lane(); i < head_dim * step_rows; i += simt::warp_size) {
            o_of_[i] *= mine_.factor[i % step_rows];
        }
    }

    // Eight lanes, a row each, go through the tile's outliers in the order of the list.
    SIMT_MEMBER void add_value_outliers(const device_side & side, const tile_place & p, const float (&s)[2][4]) {
        simt::sync_warp();
        SIMT_UNROLL
        for (int32_t i = 0; i < 2; ++i) {
            SIMT_UNROLL
            for (int32_t j = 0; j < 4; ++j) {
                mine_.scores[16 * i + 8 * (j / 2) + brick_token(g_)][2 * q_ + j % 2] = s[i][j];
            }
        }
        simt::sync_warp();
        const uint8_t * const block = block_of(side, head_);
        const uint32_t n = side.n_outliers;
        if (simt::lane() < step_rows) {
            for (int32_t t = p.begin; t < p.end; ++t) {
                const float weight = mine_.scores[t][simt::lane()];
                const uint32_t first = static_cast<uint32_t>(p.first + t) * n;
                for (uint32_t i = first; i < first + n; ++i) {
                    const uint32_t c = outlier_place_at(side, block, i);
                    o_of_[c * step_rows + static_cast<uint32_t>(simt::lane())] +=
                        weight * simt::to_float(outlier_at(side, block, i));
                }
            }
        }
        simt::sync_warp();
    }

    const device_attention & a_;
    typename step_memory<head_dim>::each_warp & mine_;
    float (&q_of_)[head_dim][step_rows];
    simt::two_words (&query_)[n_steps][simt::warp_size];
    float * o_of_;  // [head_dim, step_rows], or null
    const float (&power_)[step_rows];
    int32_t head_;
    int32_t first_row_;
    int32_t g_;
    int32_t q_;
    int32_t grid_chunk_ = -1;
    int32_t grid_group_ = -1;

    brick_part<k_bits> keys_[2][n_steps];
    brick_part<v_bits> values_[2][n_steps];
    value_scales scales_[2];
    outlier_span span_;   // of the keys loaded last, or of the tile after them
    uint32_t apart_ = 0;  // this lane's of the first 32 outliers of the keys loaded last
    uint32_t weights_[2][2] = {};
    float m_[2] = {no_score, no_score};  // of rows 2q and 2q + 1
    float l_[2] = {0.0f, 0.0f};          // of this lane's tokens
    float o_[n_steps][4] = {};           // channels 16 t + g (0, 1) and + 8 (2, 3), rows 2q and 2q + 1
};

// Blocks of threads a multiprocessor shall hold, as the words of a tile leave registers for: more have more bytes on
// their way.
template <int32_t head_dim, int32_t k_bits, int32_t v_bits>
constexpr int32_t step_blocks = head_dim == 64               ? 4
                                : k_bits == 4 && v_bits == 4 ? 3
                                                             : 2;

// Grid: x: spans, y: kv heads times tiles of 8 rows.
template <int32_t head_dim, int32_t k_bits, int32_t v_bits, bool value_outliers>
SIMT_KERNEL void SIMT_BOUNDS(step_threads, (step_blocks<head_dim, k_bits, v_bits>))
    attend_step_kernel(const SIMT_PARAM device_attention a) {
    auto & memory = *simt::as<step_memory<head_dim>>(simt::shared());
    auto * const outliers = reinterpret_cast<float *>(&memory + 1);
    const int32_t head = simt::block_y() % a.n_head_kv;
    const int32_t first_row = simt::block_y() / a.n_head_kv * step_rows;
    for (int32_t r = simt::warp(); r < step_rows; r += step_warps) {
        float x[head_dim / 32];
        const float power = scaled_query<head_dim>(a, head, first_row + r, x);
        SIMT_UNROLL
        for (int32_t i = 0; i < head_dim / 32; ++i) {
            memory.q[simt::lane() + 32 * i][r] = x[i];
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
        a, memory, value_outliers ? outliers + simt::warp() * head_dim * step_rows : nullptr, head, first_row);
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
