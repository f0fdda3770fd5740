#pragma once

// A sealed block as the kernels read it: its sections as typed pointers. Internal linkage: each CPU level compiles its
// own.

#include "kv/kv_block.h"

namespace livekv {
namespace {

class block_reader {
  public:
    block_reader() = default;
    explicit block_reader(const uint8_t * block) : block_(block) {
        __builtin_memcpy(&h_, block, sizeof(h_));
        map_ = kv_map(h_);
    }

    size_t head_bytes() const { return map_.codes; }  // before the bricks
    int32_t n_tokens() const { return h_.n_tokens; }
    int32_t n_tiles() const { return map_.n_tiles; }
    int32_t bits() const { return h_.bits; }
    int32_t group() const { return h_.group; }
    int32_t n_outliers() const { return h_.n_outliers; }  // per channel or token
    int32_t n_planes() const { return (h_.has_classes() ? block_[map_.widths] : h_.bits) == 8 ? 2 : 1; }

    // Of version 3, which has scales, widths and rows of bricks as version 2 does.
    bool has_channels() const { return h_.has_channels(); }

    // Of version 7, whose bricks and outliers are those of version 1's keys.
    bool has_codebook() const { return h_.has_codebook(); }
    const uint16_t * levels() const { return section16(map_.levels); }  // [2^bits]
    const uint16_t * half_ranges(int32_t i) const { return section16(map_.scales) + i; }
    const uint16_t * middles(int32_t i) const { return section16(map_.minima) + i; }

    // Of versions 4 and 6, whose bricks are those of version 1. grid: of a token's, where version 4 has one.
    bool has_tokens() const { return h_.has_tokens(); }
    bool has_groups() const { return h_.has_groups(); }
    const uint16_t * token_scales(int32_t token, int32_t grid) const {
        return section16(map_.scales) + static_cast<size_t>(grid) * h_.n_tokens + token;
    }
    const uint16_t * token_minima(int32_t token, int32_t grid) const {
        return section16(map_.minima) + static_cast<size_t>(grid) * h_.n_tokens + token;
    }

    // Read a tile at a time, as floats. Values of version 4 are not: their scales fold into the weights.
    bool in_floats() const { return has_channels() || (has_tokens() && h_.side == kv_side::key) || has_codebook(); }

    // Values of version 4: what the middles of n tokens' grids stand for, from a token on.
    template <typename to_f32>
    void token_middles(int32_t first, int32_t n, const float * scales, float * middles, to_f32 f) const {
        f(token_minima(first, 0), middles, static_cast<size_t>(n));
        for (int32_t t = 0; t < n; ++t) {
            middles[t] += scales[t] * static_cast<float>(1 << (h_.bits - 1));
        }
    }

    // Of version 2.
    bool has_classes() const { return h_.has_classes(); }
    const uint16_t * key_minima(int32_t group) const {
        return section16(map_.minima) + static_cast<size_t>(group) * h_.head_dim;
    }
    const uint16_t * order() const { return section16(map_.order); }
    const uint8_t * widths() const { return block_ + map_.widths; }
    size_t class_row_bytes() const { return 8 * size_t{h_.width_sum}; }  // the bricks of 16 tokens
    const uint8_t * class_bricks(int32_t tile) const {
        return block_ + map_.codes + static_cast<size_t>(2 * tile) * class_row_bytes();
    }

    const uint16_t * key_scales(int32_t group) const {
        return section16(map_.scales) + static_cast<size_t>(group) * h_.head_dim;
    }
    const int8_t * key_centres(int32_t group) const { return centres(static_cast<size_t>(group) * h_.head_dim); }
    const uint16_t * value_scales(int32_t token) const { return section16(map_.scales) + token; }
    const int8_t * value_centres(int32_t token) const { return centres(static_cast<size_t>(token)); }

    // Groups of 16 tokens that a tile has, and its bricks.
    int32_t key_sixteens(int32_t tile) const { return kv_ceil_div(h_.n_tokens, 16) - 2 * tile < 2 ? 1 : 2; }
    const uint8_t * key_bricks(int32_t tile) const { return brick(static_cast<size_t>(2 * tile) * (h_.head_dim / 4)); }
    int32_t value_quads(int32_t tile) const { return kv_value_tile_quads(h_.n_tokens, tile); }
    const uint8_t * value_bricks(int32_t tile) const { return brick(kv_value_tile_brick(h_.head_dim, tile)); }

    const uint8_t * bricks(int32_t tile) const {
        const bool in_rows = has_classes() || has_channels();
        return in_rows ? class_bricks(tile) : h_.side == kv_side::key ? key_bricks(tile) : value_bricks(tile);
    }

    // Outliers of a tile's keys: f16 values, and places (token in the tile << 11 | channel) by token.
    struct key_outliers {
        const uint16_t * values = nullptr;
        const uint16_t * places = nullptr;
        int32_t n = 0;
    };
    key_outliers key_outliers_of(int32_t tile) const {
        if (map_.n_outlying == 0) {
            return {};
        }
        uint32_t range[2];
        __builtin_memcpy(range, block_ + map_.tiles + 4 * static_cast<size_t>(tile), sizeof(range));
        return {section16(map_.outliers) + range[0], section16(map_.index) + range[0],
                static_cast<int32_t>(range[1] - range[0])};
    }

    // Values' outliers from a token on: f16, n_outliers a token, and their channels, in one byte or two.
    const uint16_t * value_outliers(int32_t token) const {
        return section16(map_.outliers) + static_cast<size_t>(token) * h_.n_outliers;
    }
    const uint8_t * value_channels(int32_t token) const {
        return block_ + map_.index + static_cast<size_t>(token) * static_cast<size_t>(h_.n_outliers * map_.index_bytes);
    }
    int32_t channel(const uint8_t * channels, int32_t i) const {
        return map_.index_bytes == 1 ? channels[i] : reinterpret_cast<const uint16_t *>(channels)[i];
    }

  private:
    const uint16_t * section16(size_t offset) const { return reinterpret_cast<const uint16_t *>(block_ + offset); }
    const int8_t * centres(size_t i) const {
        return h_.has_centres ? reinterpret_cast<const int8_t *>(block_ + map_.centres) + i : nullptr;
    }
    const uint8_t * brick(size_t i) const { return block_ + map_.codes + i * static_cast<size_t>(map_.brick_bytes); }

    const uint8_t * block_ = nullptr;
    kv_block_header h_{};
    kv_block_map map_;
};

// f(width, first, last) for each run of quads of one width, as long as it is not 0.
template <typename F>
inline void each_class(const uint8_t * widths, int32_t n_quads, F f) {
    for (int32_t first = 0; first < n_quads && widths[first] > 0;) {
        int32_t last = first + 1;
        while (last < n_quads && widths[last] == widths[first]) {
            ++last;
        }
        f(static_cast<int32_t>(widths[first]), first, last);
        first = last;
    }
}

// How many quads from this one on share the step of rounded queries, at most at_once and up to last.
inline int32_t quads_of_a_step(int32_t quad, int32_t last, int32_t at_once) {
    const int32_t to_step = 8 - quad % 8;
    const int32_t n = to_step < at_once ? to_step : at_once;
    return last - quad < n ? last - quad : n;
}

// The middle of the codes of a width.
inline float middle_of(int32_t width) {
    return 0.5f * static_cast<float>((1 << width) - 1);
}

}  // namespace
}  // namespace livekv
