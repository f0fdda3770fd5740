#include "kernels/seal_kivi.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "error.h"
#include "kernels/pack_brick.h"
#include "kv/f16.h"
#include "kv/kv_kivi.h"

namespace livekv {

namespace {

constexpr size_t group = static_cast<size_t>(kivi_group);

void store_f16(uint8_t * at, size_t i, float x) {
    const uint16_t half = f32_to_f16(x);
    std::memcpy(at + 2 * i, &half, sizeof(half));
}

// Code of a number at or above low; scale is not 0.
uint8_t code_of(float x, float low, float scale, float top) {
    const float steps = ((x - low) / scale + 12582912.0f) - 12582912.0f;  // half to even
    return static_cast<uint8_t>(static_cast<int32_t>(steps > top ? top : steps));
}

// What a group without range is divided by: all its codes are 0.
float divisor(float scale) {
    return scale > 0.0f ? scale : 1.0f;
}

class kivi_sealer {
  public:
    kivi_sealer(const kv_block_header & h, std::span<const float> x, uint8_t * block)
        : map_(kv_map(h)), x_(x), block_(block), n_(h.n_tokens), d_(h.head_dim) {
        bits_ = h.has_classes() ? h.width_sum / (h.head_dim / 4) : h.bits;
        top_ = static_cast<float>((1 << bits_) - 1);
        codes_.resize(group * d_);
        std::memset(block, 0, map_.bytes);
        std::memcpy(block, &h, sizeof(h));
    }

    void keys() {
        for (size_t c = 0; c < d_; ++c) {
            const uint16_t place = static_cast<uint16_t>(c);
            std::memcpy(block_ + map_.order + 2 * c, &place, sizeof(place));
        }
        std::memset(block_ + map_.widths, bits_, d_ / 4);
        std::vector<float> low(d_);
        std::vector<float> high(d_);
        std::vector<float> scale(d_);
        for (size_t first = 0; first < n_; first += group) {
            const size_t n_here = std::min(group, n_ - first);
            const float * const rows = x_.data() + first * d_;
            std::copy_n(rows, d_, low.begin());
            std::copy_n(rows, d_, high.begin());
            for (size_t i = d_; i < n_here * d_; i += d_) {
                for (size_t c = 0; c < d_; ++c) {
                    low[c] = std::min(low[c], rows[i + c]);
                    high[c] = std::max(high[c], rows[i + c]);
                }
            }
            for (size_t c = 0; c < d_; ++c) {
                const float s = (high[c] - low[c]) / top_;
                store_f16(block_ + map_.scales, first / group * d_ + c, s);
                store_f16(block_ + map_.minima, first / group * d_ + c, low[c]);
                scale[c] = divisor(s);
            }
            for (size_t i = 0; i < n_here * d_; i += d_) {
                for (size_t c = 0; c < d_; ++c) {
                    codes_[i + c] = code_of(rows[i + c], low[c], scale[c], top_);
                }
            }
            pack_keys(first, n_here);
        }
    }

    void values() {
        for (size_t first = 0; first < n_; first += kv_tile_tokens) {
            const size_t n_here = std::min<size_t>(kv_tile_tokens, n_ - first);
            for (size_t t = 0; t < n_here; ++t) {
                for (size_t c = 0; c < d_; c += group) {
                    const size_t n_channels = std::min(group, d_ - c);
                    const float * const from = x_.data() + (first + t) * d_ + c;
                    const auto [low, high] = range_of(from, n_channels);
                    const float s = (high - low) / top_;
                    store_f16(block_ + map_.scales, c / group * n_ + first + t, s);
                    store_f16(block_ + map_.minima, c / group * n_ + first + t, low);
                    for (size_t i = 0; i < n_channels; ++i) {
                        codes_[t * d_ + c + i] = code_of(from[i], low, divisor(s), top_);
                    }
                }
            }
            pack_values(first, n_here);
        }
    }

  private:
    static std::pair<float, float> range_of(const float * x, size_t n) {
        float low = x[0];
        float high = x[0];
        for (size_t i = 1; i < n; ++i) {
            low = std::min(low, x[i]);
            high = std::max(high, x[i]);
        }
        return {low, high};
    }

    uint8_t * brick(size_t i) const { return block_ + map_.codes + i * 8 * static_cast<size_t>(bits_); }

    void pack_keys(size_t first, size_t n_here) const {
        for (size_t t = 0; t < n_here; t += 16) {
            for (size_t quad = 0; quad < d_ / 4; ++quad) {
                uint8_t u[64] = {};
                for (size_t i = t; i < std::min(t + 16, n_here); ++i) {
                    std::memcpy(u + 4 * (i - t), codes_.data() + i * d_ + 4 * quad, 4);
                }
                pack_brick(u, bits_, brick((first + t) / 16 * (d_ / 4) + quad));
            }
        }
    }

    void pack_values(size_t first, size_t n_here) const {
        uint8_t * to =
            brick(kv_value_tile_brick(static_cast<int32_t>(d_), static_cast<int32_t>(first) / kv_tile_tokens));
        for (size_t c = 0; c < d_; c += 16) {
            const size_t n_channels = std::min<size_t>(16, d_ - c);
            for (size_t t = 0; t < n_here; t += 4, to += 8 * bits_) {
                uint8_t u[64] = {};
                for (size_t i = t; i < std::min(t + 4, n_here); ++i) {
                    for (size_t k = 0; k < n_channels; ++k) {
                        u[4 * k + i - t] = codes_[i * d_ + c + k];
                    }
                }
                pack_brick(u, bits_, to);
            }
        }
    }

    kv_block_map map_;
    std::span<const float> x_;
    uint8_t * block_;
    size_t n_;
    size_t d_;
    int32_t bits_;
    float top_;
    std::vector<uint8_t> codes_;  // [32 tokens, head_dim]
};

}  // namespace

void seal_kivi(const kv_block_header & header, std::span<const float> x, uint8_t * block) {
    LIVEKV_ASSERT(x.size() == static_cast<size_t>(header.n_tokens) * header.head_dim);
    kivi_sealer sealer(header, x, block);
    header.has_classes() ? sealer.keys() : sealer.values();
}

}  // namespace livekv
