#pragma once

// Attention of a few rows, as in decode: the query heads of one kv head, up to step_rows of them. Where
// attention_rows.h puts rows side by side in vector lanes, here lanes are the 16 tokens (keys) or channels (values) of
// a brick, so that few rows waste none and codes go from memory into products without a stop. The arithmetic is the
// same.

#include "kernels/cpu/attention_rows.h"
#include "kernels/cpu/step_products.h"

namespace livekv {
namespace {

class step_attention {
  public:
    step_attention(const attention_args & args, const attention_item & item, void * memory, const softmax_state & state)
        : args_(args), item_(item), s_(memory, args.head_dim), state_(state), d_(args.head_dim) {}

    void run() {
        load_queries();
        for (int32_t r = 0; r < step_rows; ++r) {
            m_[r] = hidden_score;
            l_[r] = lanes::set(0.0f);
            v_offset_[r] = lanes::set(0.0f);
        }
        clear(s_.o, step_rows * s_.d32);
        clear(s_.o_of, step_rows * s_.d32);
        int64_t left = item_.n_tiles;
        int32_t tile = item_.first_tile;
        for (int64_t i = item_.first_segment; left > 0; ++i, tile = 0) {
            const int32_t n_tiles = kv_ceil_div(args_.segments[i].n_tokens, tile_tokens);
            for (folded_group_ = -1; tile < n_tiles && left > 0; ++tile, --left) {
                one_tile(args_.segments[i], tile);
            }
        }
        hand_over();
    }

  private:
    int32_t wide() const { return item_.n_rows <= 4 ? 4 : 8; }  // rows side by side in q_of and o_of

    // n a multiple of 16: whole vectors, because a library call costs more than these few
    static void clear(float * x, size_t n) {
        for (size_t i = 0; i < n; i += lanes::n) {
            lanes::store(x + i, lanes::set(0.0f));
        }
    }

    // Bounded as in attention_rows.h.
    void load_queries() {
        const float scale = args_.scale * log2_e;
        clear(s_.q, step_rows * s_.d32);
        clear(s_.q_of, step_rows * s_.d32);
        for (int32_t r = 0; r < item_.n_rows; ++r) {
            float * const q = s_.q + static_cast<size_t>(r) * s_.d32;
            const float * const from = args_.q + (item_.head * args_.group() + item_.first_row + r) * d_;
            for (int32_t c = 0; c < d_; ++c) {
                const float x = from[c] * scale;
                q[c] = x > -largest_query ? (x < largest_query ? x : largest_query) : -largest_query;
            }
            rotate_rows(q, d_, args_.k_rotation, 1);
            for (int32_t c = 0; c < d_; ++c) {
                s_.q_of[c * wide() + r] = q[c];
            }
        }
    }

    // Results into the layout spans are joined in.
    void hand_over() {
        for (int32_t r = 0; r < n_rows_tile; ++r) {
            state_.m[r] = r < item_.n_rows ? m_[r] : hidden_score;
            state_.l[r] = r < item_.n_rows ? lanes::sum(l_[r]) : 0.0f;
        }
        clear(state_.o, static_cast<size_t>(d_) * n_rows_tile);
        for (int32_t r = 0; r < item_.n_rows; ++r) {
            float * const o = s_.o + static_cast<size_t>(r) * s_.d32;
            const float v_offset = lanes::sum(v_offset_[r]);
            for (int32_t c = 0; c < d_; ++c) {
                o[c] += s_.o_of[c * wide() + r] + v_offset;
            }
            rotate_rows(o, d_, args_.v_rotation, 1);
            for (int32_t c = 0; c < d_; ++c) {
                state_.o[c * n_rows_tile + r] = o[c];
            }
        }
    }

    void one_tile(const kv_segment & segment, int32_t tile) {
        const int32_t first = tile * tile_tokens;
        const int32_t n = segment.n_tokens - first < tile_tokens ? segment.n_tokens - first : tile_tokens;
        if (segment.k_blocks) {
            const block_reader block(segment.k_blocks + static_cast<size_t>(item_.head) * segment.k_block_bytes);
            switch (block.bits()) {
                case 2:
                    block_scores<2>(block, tile);
                    break;
                case 3:
                    block_scores<3>(block, tile);
                    break;
                case 4:
                    block_scores<4>(block, tile);
                    break;
                case 5:
                    block_scores<5>(block, tile);
                    break;
                default:
                    block_scores<8>(block, tile);
            }
        } else {
            load_rows(segment.k_rows, first, n);
            row_scores(n);
        }
        const int32_t n_skip = segment.n_skip - first < n ? segment.n_skip - first : n;
        for (int32_t r = 0; r < item_.n_rows; ++r) {
            float * const s = s_.scores + r * tile_tokens;
            for (int32_t t = 0; t < n_skip; ++t) {
                s[t] = 2.0f * hidden_score;
            }
            for (int32_t t = n; t < tile_tokens; ++t) {
                s[t] = 2.0f * hidden_score;
            }
            softmax_step(r);
        }
        if (segment.v_blocks) {
            const block_reader block(segment.v_blocks + static_cast<size_t>(item_.head) * segment.v_block_bytes);
            switch (block.bits()) {
                case 2:
                    block_values<2>(block, tile, n);
                    break;
                case 3:
                    block_values<3>(block, tile, n);
                    break;
                case 4:
                    block_values<4>(block, tile, n);
                    break;
                case 5:
                    block_values<5>(block, tile, n);
                    break;
                default:
                    block_values<8>(block, tile, n);
            }
        } else {
            load_rows(segment.v_rows, first, n);
            row_values(n);
        }
    }

    void load_rows(const uint16_t * from, int32_t first, int32_t n) {
        const size_t stride = static_cast<size_t>(args_.n_head_kv) * static_cast<size_t>(d_);
        for (int32_t t = 0; t < n; ++t) {
            float * const row = s_.rows + static_cast<size_t>(t) * s_.d32;
            lanes::to_f32(from + static_cast<size_t>(first + t) * stride + static_cast<size_t>(item_.head * d_), row,
                          static_cast<size_t>(d_));
            for (size_t c = static_cast<size_t>(d_); c < s_.d32; ++c) {
                row[c] = 0.0f;
            }
        }
    }

    void row_scores(int32_t n) {
        for (int32_t r = 0; r < item_.n_rows; ++r) {
            for (int32_t t = 0; t < n; ++t) {
                f32 sum = lanes::set(0.0f);
                for (size_t c = 0; c < s_.d32; c += lanes::n) {
                    sum = lanes::fma(lanes::load(s_.q + static_cast<size_t>(r) * s_.d32 + c),
                                     lanes::load(s_.rows + static_cast<size_t>(t) * s_.d32 + c), sum);
                }
                s_.scores[r * tile_tokens + t] = lanes::sum(sum);
            }
        }
    }

    void row_values(int32_t n) {
        for (int32_t r = 0; r < item_.n_rows; ++r) {
            for (size_t c = 0; c < s_.d32; c += lanes::n) {
                float * const at = s_.o + static_cast<size_t>(r) * s_.d32 + c;
                f32 sum = lanes::load(at);
                for (int32_t t = 0; t < n; ++t) {
                    sum = lanes::fma(lanes::set(s_.scores[r * tile_tokens + t]),
                                     lanes::load(s_.rows + static_cast<size_t>(t) * s_.d32 + c), sum);
                }
                lanes::store(at, sum);
            }
        }
    }

    template <int32_t bits>
    void block_scores(const block_reader & block, int32_t tile) {
        constexpr int32_t n_planes = bits == 8 ? 2 : 1;
        constexpr int32_t quads_at_once = bits == 5 ? 4 : 8;
        const int32_t group = tile * tile_tokens / block.group();
        if (group != folded_group_) {
            fold<n_planes>(block, group, 1 << (bits - 1));
            folded_group_ = group;
        }
        for (int32_t r = 0; r < item_.n_rows; ++r) {
            for (int32_t v = 0; v < n_tile; ++v) {
                lanes::store(s_.scores + r * tile_tokens + v * lanes::n, lanes::set(offset_[r]));
            }
        }
        const int32_t n_quads = d_ / 4;
        const int32_t n_sixteens = block.key_sixteens(tile);
        for (int32_t half = 0; half < n_sixteens; ++half) {
            const uint8_t * const bricks = block.key_bricks(tile) + half * n_quads * 8 * bits;
            for (int32_t quad = 0; quad < n_quads; quad += quads_at_once) {
                const int32_t n = n_quads - quad < quads_at_once ? n_quads - quad : quads_at_once;
                for (int32_t row = 0; row < item_.n_rows; row += rows_at_once) {
                    for (int32_t i = 0; i < n_planes * n_planes; ++i) {
                        const float factor =
                            (i / n_planes == 0 ? 1.0f : 16.0f) * (i % n_planes == 0 ? 1.0f : 1.0f / 254.0f);
                        brick_products_of<bits, false>(
                            item_.n_rows - row, bricks + quad * 8 * bits, n, i / n_planes, 0,
                            s_.q8[i % n_planes] + static_cast<size_t>(row) * s_.d32 + 4 * quad, s_.d32,
                            s_.step + static_cast<size_t>(row) * (s_.d32 / 32) + quad / 8, s_.d32 / 32, factor,
                            s_.scores + row * tile_tokens + half * 16, size_t{tile_tokens});
                    }
                }
            }
        }
        const block_reader::key_outliers apart = block.key_outliers_of(tile);
        if (apart.n > 0) {
            lanes::to_f32(apart.values, s_.rows, static_cast<size_t>(apart.n));
            item_.n_rows <= 4 ? add_key_outliers<4>(apart) : add_key_outliers<8>(apart);
        }
    }

    // Outliers are summed with rows side by side, `wide` of them, one row a token or channel.
    template <int32_t wide>
    void add_key_outliers(const block_reader::key_outliers & apart) {
        clear(s_.s_of, wide * tile_tokens);
        for (int32_t i = 0; i < apart.n; ++i) {
            add_row<wide>(s_.s_of + (apart.places[i] >> 11) * wide, s_.q_of + (apart.places[i] & 0x7ff) * wide,
                          s_.rows[i]);
        }
        for (int32_t r = 0; r < wide; r += 4) {
            lanes::add_transposed_4(s_.s_of + r, wide, s_.scores + r * tile_tokens, tile_tokens);
        }
    }

    template <int32_t wide>
    void add_value_outliers(const block_reader & block, int32_t first, int32_t n) {
        for (int32_t r = 0; r < wide; r += 4) {
            for (int32_t t = 0; t < tile_tokens; t += 4) {
                lanes::transpose_4(s_.scores + r * tile_tokens + t, tile_tokens, s_.s_of + t * wide + r, wide);
            }
        }
        const uint8_t * const channels = block.value_channels(first);
        const int32_t each = block.n_outliers();
        lanes::to_f32(block.value_outliers(first), s_.rows, static_cast<size_t>(n * each));
        for (int32_t t = 0; t < n; ++t) {
            for (int32_t i = t * each; i < (t + 1) * each; ++i) {
                add_row<wide>(s_.o_of + block.channel(channels, i) * wide, s_.s_of + t * wide, s_.rows[i]);
            }
        }
    }

    template <int32_t wide>
    static void add_row(float * to, const float * from, float x) {
        for (int32_t r = 0; r < wide; r += 4) {
            lanes::add_scaled_4(to + r, from + r, x);
        }
    }

    // As fold in attention_rows.h, a row at a time.
    template <int32_t n_planes>
    void fold(const block_reader & block, int32_t group, int32_t mid) {
        const int8_t * const centres = block.key_centres(group);
        lanes::to_f32(block.key_scales(group), s_.scales, static_cast<size_t>(d_));
        for (size_t c = static_cast<size_t>(d_); c < s_.d32; ++c) {
            s_.scales[c] = 0.0f;
        }
        for (int32_t r = 0; r < item_.n_rows; ++r) {
            const float * const q = s_.q + static_cast<size_t>(r) * s_.d32;
            f32 offset = lanes::set(0.0f);
            float rounding = 0.0f;
            for (size_t first = 0; first < s_.d32; first += 32) {
                f32 x[32 / lanes::n];
                f32 largest = lanes::set(1e-30f);
                for (size_t i = 0; i < 32 / lanes::n; ++i) {
                    const size_t c = first + i * lanes::n;
                    x[i] = lanes::mul(lanes::load(q + c), lanes::load(s_.scales + c));
                    largest = lanes::max(largest, lanes::abs(x[i]));
                    if (centres) {
                        offset = lanes::fma(x[i], lanes::load_i8(centres + c), offset);
                    }
                }
                const float top = lanes::largest(largest);
                const f32 inverse = lanes::set(127.0f / top);
                lanes::i32 whole[32 / lanes::n];
                lanes::i32 rest[32 / lanes::n] = {};
                f32 sum = lanes::set(0.0f);
                for (size_t i = 0; i < 32 / lanes::n; ++i) {
                    const f32 scaled = lanes::mul(x[i], inverse);
                    whole[i] = lanes::round(scaled);
                    const f32 rounded = lanes::to_float(whole[i]);
                    sum = lanes::add(sum, rounded);
                    if (n_planes == 2) {
                        rest[i] = lanes::round(lanes::mul(lanes::sub(scaled, rounded), lanes::set(254.0f)));
                        sum = lanes::fma(lanes::to_float(rest[i]), lanes::set(1.0f / 254.0f), sum);
                    }
                }
                lanes::store_32_bytes(s_.q8[0] + static_cast<size_t>(r) * s_.d32 + first, whole);
                if (n_planes == 2) {
                    lanes::store_32_bytes(s_.q8[1] + static_cast<size_t>(r) * s_.d32 + first, rest);
                }
                s_.step[static_cast<size_t>(r) * (s_.d32 / 32) + first / 32] = top * (1.0f / 127.0f);
                rounding += top * (1.0f / 127.0f) * lanes::sum(sum);
            }
            offset_[r] = lanes::sum(offset) - static_cast<float>(mid) * rounding;
        }
    }

    void softmax_step(int32_t r) {
        float * const s = s_.scores + r * tile_tokens;
        f32 largest = lanes::load(s);
        for (int32_t v = 1; v < n_tile; ++v) {
            largest = lanes::max(largest, lanes::load(s + v * lanes::n));
        }
        const float m = lanes::largest(largest);
        if (m > m_[r]) {
            const float factor = exp2_of(m_[r] - m);
            m_[r] = m;
            l_[r] = lanes::mul(l_[r], lanes::set(factor));
            v_offset_[r] = lanes::mul(v_offset_[r], lanes::set(factor));
            for (int32_t c = 0; c < d_; ++c) {
                s_.o_of[c * wide() + r] *= factor;
            }
            for (size_t c = 0; c < s_.d32; c += lanes::n) {
                float * const at = s_.o + static_cast<size_t>(r) * s_.d32 + c;
                lanes::store(at, lanes::mul(lanes::load(at), lanes::set(factor)));
            }
        }
        f32 l = l_[r];
        for (int32_t v = 0; v < n_tile; ++v) {
            const f32 p = exp2_negative(lanes::sub(lanes::load(s + v * lanes::n), lanes::set(m_[r])));
            l = lanes::add(l, p);
            lanes::store(s + v * lanes::n, p);
        }
        l_[r] = l;
    }

    static float exp2_of(float x) {
        float all[lanes::n];
        lanes::store(all, exp2_negative(lanes::set(x)));
        return all[0];
    }

    template <int32_t bits>
    void block_values(const block_reader & block, int32_t tile, int32_t n) {
        constexpr int32_t n_planes = bits == 8 ? 2 : 1;
        constexpr int32_t quads_at_once = bits == 5 || bits == 8 ? 4 : 8;
        const int32_t first = tile * tile_tokens;
        const int32_t n_quads = block.value_quads(tile);
        const int8_t * const centres = block.value_centres(first);
        const int32_t n_scales = block.n_tokens() - first < tile_tokens ? block.n_tokens() - first : tile_tokens;
        lanes::to_f32(block.value_scales(first), s_.scales, static_cast<size_t>(n_scales));
        for (int32_t t = n_scales; t < tile_tokens; ++t) {
            s_.scales[t] = 0.0f;
        }
        for (int32_t r = 0; r < item_.n_rows; ++r) {
            weigh<n_planes>(r, centres);
        }
        const int32_t n_sixteens = static_cast<int32_t>(s_.d16 / 16);
        for (int32_t sixteen = 0; sixteen < n_sixteens; ++sixteen) {
            const uint8_t * const bricks = block.value_bricks(tile) + sixteen * n_quads * 8 * bits;
            for (int32_t quad = 0; quad < n_quads; quad += quads_at_once) {
                const int32_t n_now = n_quads - quad < quads_at_once ? n_quads - quad : quads_at_once;
                for (int32_t row = 0; row < item_.n_rows; row += rows_at_once) {
                    for (int32_t i = 0; i < n_planes * n_planes; ++i) {
                        const int32_t bias = n_planes == 1 ? 1 << (bits - 1) : i / n_planes == 0 ? 0 : 8;
                        const float factor =
                            (i / n_planes == 0 ? 1.0f : 16.0f) * (i % n_planes == 0 ? 1.0f : 1.0f / 255.0f);
                        brick_products_of<bits, true>(item_.n_rows - row, bricks + quad * 8 * bits, n_now, i / n_planes,
                                                      bias, s_.p8[i % n_planes] + row * tile_tokens + 4 * quad,
                                                      size_t{tile_tokens}, s_.p_step + row, size_t{1}, factor,
                                                      s_.o + static_cast<size_t>(row) * s_.d32 + sixteen * 16, s_.d32);
                    }
                }
            }
        }
        if (block.n_outliers() > 0) {
            item_.n_rows <= 4 ? add_value_outliers<4>(block, first, n) : add_value_outliers<8>(block, first, n);
        }
    }

    // A row's weights times the value scales, rounded; what the middles of the grids contribute is summed exactly.
    template <int32_t n_planes>
    void weigh(int32_t r, const int8_t * centres) {
        f32 w[n_tile];
        f32 largest = lanes::set(1e-30f);
        f32 offset = v_offset_[r];
        for (int32_t v = 0; v < n_tile; ++v) {
            w[v] = lanes::mul(lanes::load(s_.scores + r * tile_tokens + v * lanes::n),
                              lanes::load(s_.scales + v * lanes::n));
            largest = lanes::max(largest, w[v]);
            if (centres) {
                offset = lanes::fma(w[v], lanes::load_i8(centres + v * lanes::n), offset);
            }
        }
        const float top = lanes::largest(largest);
        s_.p_step[r] = top * (1.0f / 255.0f);
        v_offset_[r] = offset;
        const f32 inverse = lanes::set(255.0f / top);
        lanes::i32 whole[n_tile];
        lanes::i32 rest[n_tile] = {};
        for (int32_t v = 0; v < n_tile; ++v) {
            const f32 x = lanes::mul(w[v], inverse);
            if (n_planes == 2) {
                whole[v] = lanes::round(lanes::max(lanes::sub(x, lanes::set(0.5f)), lanes::set(0.0f)));
                const f32 left = lanes::max(lanes::sub(x, lanes::to_float(whole[v])), lanes::set(0.0f));
                rest[v] = lanes::round(lanes::min(lanes::mul(left, lanes::set(255.0f)), lanes::set(255.0f)));
            } else {
                whole[v] = lanes::round(x);
            }
        }
        lanes::store_32_bytes(s_.p8[0] + r * tile_tokens, whole);
        if (n_planes == 2) {
            lanes::store_32_bytes(s_.p8[1] + r * tile_tokens, rest);
        }
    }

    const attention_args & args_;
    const attention_item & item_;
    step_map s_;
    softmax_state state_;
    int32_t d_;
    int32_t folded_group_ = -1;  // of the segment at hand
    float m_[step_rows];
    float offset_[step_rows];  // what the middles of the key grids add to every score of the group
    // Summed over lanes only at the end: a sum across one costs more than all that goes into it.
    f32 l_[step_rows];
    f32 v_offset_[step_rows];  // what the middles of the value grids have added to every channel
};

// Few rows of one token go the one way, many the other.
inline void attend(const attention_args & args, const attention_item & item, void * scratch,
                   const softmax_state & state) {
    if (args.n_tokens == 1 && item.n_rows <= step_rows) {
        step_attention(args, item, scratch, state).run();
    } else {
        row_attention(args, item, scratch, state).run();
    }
}

inline size_t attend_scratch_bytes(int32_t head_dim) {
    const size_t rows = scratch_map(nullptr, head_dim).bytes;
    const size_t step = step_map(nullptr, head_dim).bytes;
    return rows > step ? rows : step;
}

}  // namespace
}  // namespace livekv
