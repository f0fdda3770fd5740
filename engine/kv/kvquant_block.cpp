#include "kv/kvquant_block.h"

#include <algorithm>

#include "error.h"
#include "kv/f16.h"
#include "kv/kv_pack.h"
#include "unaligned.h"

namespace livekv {

namespace {

std::vector<float> floats_at(const uint8_t * at, size_t n) {
    std::vector<float> values;
    for (size_t i = 0; i < n; ++i) {
        values.push_back(f16_to_f32(load<uint16_t>(at + 2 * i)));
    }
    return values;
}

}  // namespace

int64_t kvquant_outlying(const kvquant_tokens & tokens, int64_t head_dim, int64_t n_sinks) {
    return std::count(tokens.outlier.begin() + n_sinks * head_dim, tokens.outlier.end(), uint8_t{1});
}

std::vector<uint8_t> kvquant_block(const kv_block_header & h, std::span<const float> x, const kvquant_tokens & tokens,
                                   std::span<const kvquant_range> ranges, std::span<const float> codebook,
                                   int64_t n_sinks) {
    const kv_block_map map = kv_map(h);
    const size_t d = h.head_dim;
    LIVEKV_ASSERT(x.size() == h.n_tokens * d && tokens.codes.size() == x.size());
    LIVEKV_ASSERT(ranges.size() == static_cast<size_t>(map.n_scales) && codebook.size() == size_t{1} << h.bits);
    LIVEKV_ASSERT(kvquant_outlying(tokens, h.head_dim, n_sinks) <= map.n_outlying);
    std::vector<uint8_t> bytes(map.bytes);
    uint8_t * const block = bytes.data();
    store(block, h);
    for (size_t i = 0; i < codebook.size(); ++i) {
        store(block + map.levels + 2 * i, f32_to_f16_finite(codebook[i]));
    }
    for (size_t i = 0; i < ranges.size(); ++i) {
        store(block + map.scales + 2 * i, f32_to_f16_finite(ranges[i].half()));
        store(block + map.minima + 2 * i, f32_to_f16_finite(ranges[i].middle()));
    }
    uint32_t n_apart = 0;
    for (size_t i = static_cast<size_t>(n_sinks) * d; i < x.size(); ++i) {
        const auto token = static_cast<int32_t>(i / d);
        const auto channel = static_cast<int32_t>(i % d);
        if (!tokens.outlier[i]) {
            set_block_code(block, token, channel, tokens.codes[i]);
            continue;
        }
        store(block + map.outliers + 2 * size_t{n_apart}, f32_to_f16_finite(x[i]));
        store(block + map.index + 2 * size_t{n_apart}, static_cast<uint16_t>(token % kv_tile_tokens << 11 | channel));
        ++n_apart;
        store(block + map.tiles + 4 * static_cast<size_t>(token / kv_tile_tokens + 1), n_apart);
    }
    for (size_t tile = 1; tile <= static_cast<size_t>(map.n_tiles); ++tile) {  // of those that have none
        uint8_t * const end = block + map.tiles + 4 * tile;
        store(end, std::max(load<uint32_t>(end), load<uint32_t>(end - 4)));
    }
    return bytes;
}

sealed_chunk read_kvquant_block(const uint8_t * block) {
    const auto h = load<kv_block_header>(block);
    const kv_block_map map = kv_map(h);
    sealed_chunk sealed;
    sealed.n_tokens = h.n_tokens;
    sealed.head_dim = h.head_dim;
    sealed.bits = h.bits;
    sealed.per_channel = h.side == kv_side::key;
    sealed.group = h.group;
    sealed.levels = floats_at(block + map.levels, size_t{1} << h.bits);
    sealed.scale = floats_at(block + map.scales, static_cast<size_t>(map.n_scales));
    sealed.minimum = floats_at(block + map.minima, static_cast<size_t>(map.n_scales));
    for (int32_t token = 0; token < h.n_tokens; ++token) {
        for (int32_t channel = 0; channel < h.head_dim; ++channel) {
            sealed.codes.push_back(static_cast<int16_t>(block_code(block, token, channel)));
        }
    }
    for (int32_t tile = 0; tile < map.n_tiles; ++tile) {
        const uint8_t * const ends = block + map.tiles + 4 * static_cast<size_t>(tile);
        for (size_t i = load<uint32_t>(ends); i < load<uint32_t>(ends + 4); ++i) {
            const auto place = load<uint16_t>(block + map.index + 2 * i);
            const int32_t token = tile * kv_tile_tokens + (place >> 11);
            sealed.outlier_index.push_back(token * h.head_dim + (place & 0x7ff));
            sealed.outlier_value.push_back(f16_to_f32(load<uint16_t>(block + map.outliers + 2 * i)));
        }
    }
    return sealed;
}

int64_t kvquant_outliers_of(const uint8_t * block) {
    const kv_block_map map = kv_map(load<kv_block_header>(block));
    return load<uint32_t>(block + map.tiles + 4 * static_cast<size_t>(map.n_tiles));
}

}  // namespace livekv
