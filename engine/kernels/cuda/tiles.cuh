#pragma once

// Finding tiles of a sequence, and reading a tile's parts.

#include "kernels/cuda/device_kv.h"
#include "kernels/cuda/simt.h"

namespace livekv::device {

// A tile of a sequence: where it lies in its chunk, and which of its tokens are read.
struct tile_place {
    int32_t chunk;  // n_chunks: the sinks; n_chunks + 1: the open tokens
    int32_t first;  // its first token in the chunk
    int32_t begin;  // tokens begin ... end - 1 of the tile are read
    int32_t end;
};

SIMT_FN const device_chunk & chunk_at(const device_attention & a, int32_t chunk) {
    return chunk < a.n_chunks ? a.chunks[chunk] : chunk == a.n_chunks ? a.sinks : a.open;
}

// Chunks have the same number of tiles, but for a few: so the search starts where the tile ought to be.
SIMT_FN int32_t chunk_of_tile(const device_attention & a, int64_t tile) {
    if (tile >= a.n_chunk_tiles) {
        return tile >= a.open_tile() ? a.n_chunks + 1 : a.n_chunks;
    }
    int64_t i = tile / a.tiles_per_chunk;
    i = i < a.n_chunks ? i : a.n_chunks - 1;
    while (i > 0 && a.chunks[i].first_tile > tile) {
        --i;
    }
    while (i + 1 < a.n_chunks && a.chunks[i + 1].first_tile <= tile) {
        ++i;
    }
    return static_cast<int32_t>(i);
}

// Of the tile after one of this chunk.
SIMT_FN int32_t chunk_of_next(const device_attention & a, int64_t tile, int32_t chunk) {
    if (chunk + 1 < a.n_chunks) {
        return a.chunks[chunk + 1].first_tile > tile ? chunk : chunk + 1;
    }
    return chunk_of_tile(a, tile);
}

SIMT_FN tile_place place_in(const device_chunk & c, int32_t chunk, int64_t tile) {
    tile_place p;
    p.chunk = chunk;
    p.first = static_cast<int32_t>(tile - c.first_tile) * kv_tile_tokens;
    p.begin = c.n_skip > p.first ? c.n_skip - p.first : 0;
    p.end = c.n_tokens - p.first < kv_tile_tokens ? c.n_tokens - p.first : kv_tile_tokens;
    return p;
}

// Tokens of the open chunk that row r sees.
SIMT_FN int32_t open_tokens_of(const device_attention & a, int32_t row) {
    return a.open.n_tokens - (a.n_tokens - 1 - row / a.group());
}

SIMT_FN const uint8_t * block_of(const device_side & s, int32_t head) {
    return s.data + static_cast<size_t>(head) * s.block_bytes;
}
// Values of channel c and up of token t: f16.
SIMT_FN const uint16_t * row_of(const device_attention & a, const device_side & s, int32_t head, int32_t t, int32_t c) {
    const size_t at = (static_cast<size_t>(t) * static_cast<size_t>(a.n_head_kv) + static_cast<size_t>(head)) *
                          static_cast<size_t>(a.head_dim) +
                      static_cast<size_t>(c);
    return simt::as<uint16_t>(s.data) + at;
}

SIMT_FN uint16_t scale_at(const uint8_t * block, int32_t i) {
    return simt::as<uint16_t>(block + sizeof(kv_block_header))[i];
}
SIMT_FN int32_t centre_at(const device_side & s, const uint8_t * block, int32_t i) {
    return s.centres != 0 ? simt::as<int8_t>(block)[s.centres + static_cast<uint32_t>(i)] : 0;
}

// Of keys whose channels stand in classes of width.
SIMT_FN uint16_t minimum_at(const device_side & s, const uint8_t * block, int32_t i) {
    return simt::as<uint16_t>(block + s.minima)[i];
}
SIMT_FN int32_t channel_at(const device_side & s, const uint8_t * block, int32_t place) {
    return simt::as<uint16_t>(block + s.order)[place];
}

// x -> scale * (x + centre) for four columns, as pairs of halves: the scales of columns 0 and 2, and of 1 and 3, then
// scale * centre of the same.
SIMT_FN simt::four_words grid_of(simt::two_words scales, uint32_t centres) {
    simt::four_words g = {};
    g.w[0] = simt::bytes_of(scales.w[0], scales.w[1], 0x5410u);
    g.w[1] = simt::bytes_of(scales.w[0], scales.w[1], 0x7632u);
    if (centres != 0) {
        const auto offset = [&](uint32_t scale, int32_t i) {
            const float centre = static_cast<float>(static_cast<int8_t>(centres >> (8 * i)));
            return simt::to_float(static_cast<uint16_t>(scale)) * centre;
        };
        g.w[2] = simt::to_halves(offset(g.w[0], 0), offset(g.w[0] >> 16, 2));
        g.w[3] = simt::to_halves(offset(g.w[1], 1), offset(g.w[1] >> 16, 3));
    }
    return g;
}

// Of channels c ... c + 3 in a key group. Both sections are aligned for it: head_dim is a multiple of 8.
SIMT_FN simt::four_words key_grid_of(const device_side & s, const uint8_t * block, int32_t at) {
    const auto scales = *simt::as<simt::two_words>(block + sizeof(kv_block_header) + 2 * at);
    return grid_of(scales, s.centres != 0 ? *simt::as<uint32_t>(block + s.centres + at) : 0u);
}

// Scales and centres of tokens t ... t + 3; t is a multiple of 4. Zeros for those that are not there.
struct value_scales {
    simt::two_words scales;
    uint32_t centres;
};
SIMT_FN value_scales value_scales_of(const device_side & s, const uint8_t * block, int32_t t) {
    value_scales v = {};
    if (t + 4 <= s.n_stored) {
        v.scales = *simt::as<simt::two_words>(block + sizeof(kv_block_header) + 2 * t);
    } else {
        SIMT_UNROLL
        for (int32_t i = 0; i < 3; ++i) {
            const uint32_t scale = t + i < s.n_stored ? scale_at(block, t + i) : 0u;
            v.scales.w[i / 2] |= scale << (16 * (i % 2));
        }
    }
    if (s.centres != 0 && s.centres % 4 == 0 && t + 4 <= s.n_stored) {
        v.centres = *simt::as<uint32_t>(block + s.centres + t);
    } else if (s.centres != 0) {
        SIMT_UNROLL
        for (int32_t i = 0; i < 4; ++i) {
            const uint32_t centre = t + i < s.n_stored ? block[s.centres + static_cast<uint32_t>(t + i)] : 0u;
            v.centres |= centre << (8 * i);
        }
    }
    return v;
}

// The key outliers of a tile: first and last of the block's list.
struct outlier_span {
    uint32_t first;
    uint32_t last;
};
SIMT_FN outlier_span key_outliers_of(const device_side & s, const uint8_t * block, int32_t tile) {
    if (s.n_outliers == 0) {
        return {0, 0};
    }
    const auto * const tiles = simt::as<uint32_t>(block + s.tiles);
    return {tiles[tile], tiles[tile + 1]};
}
SIMT_FN uint16_t outlier_at(const device_side & s, const uint8_t * block, uint32_t i) {
    return simt::as<uint16_t>(block + s.outliers)[i];
}
SIMT_FN uint32_t outlier_place_at(const device_side & s, const uint8_t * block, uint32_t i) {
    return s.index_bytes == 2 ? simt::as<uint16_t>(block + s.index)[i] : block[s.index + i];
}

}  // namespace livekv::device
