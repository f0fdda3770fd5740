#pragma once

// Decode's first product, whatever the keys are: exact keys, in a warp's registers, times its queries, and which tokens
// count. s, everywhere: of 32 tokens and 8 rows what a lane holds: s[i]: tokens 16 i + brick_token(g) (0, 1) and + 8
// (2, 3) of the tile, rows 2q and 2q + 1.

#include "kernels/cuda/step_memory.cuh"
#include "kernels/cuda/tiles.cuh"

namespace livekv::device {

template <int32_t head_dim>
class step_keys {
  public:
    SIMT_MEMBER step_keys(const device_attention & a, const step_memory<head_dim> & memory, int32_t head,
                          int32_t first_row)
        : a_(a),
          query_(memory.query),
          power_(memory.power),
          head_(head),
          first_row_(first_row),
          g_(simt::lane() / 4),
          q_(simt::lane() % 4) {}

    // Of exact keys.
    SIMT_MEMBER void of_rows(const device_chunk & c, const tile_place & p, float (&s)[2][4]) const {
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

  protected:
    static constexpr int32_t n_steps = head_dim / 16;

    SIMT_MEMBER static void clear(float (&s)[2][4]) {
        SIMT_UNROLL
        for (int32_t i = 0; i < 8; ++i) {
            s[i / 4][i % 4] = 0.0f;
        }
    }

    const device_attention & a_;
    const simt::two_words (&query_)[n_steps][simt::warp_size];
    const float (&power_)[step_rows];
    int32_t head_;
    int32_t first_row_;
    int32_t g_;
    int32_t q_;

  private:
    SIMT_MEMBER simt::two_words key_row(const device_chunk & c, int32_t token, int32_t channel) const {
        return token < c.n_tokens ? *simt::as<simt::two_words>(row_of(a_, c.k, head_, token, channel))
                                  : simt::two_words{};
    }
};

}  // namespace livekv::device
