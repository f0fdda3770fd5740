#pragma once

// The format of sealed keys and values, for everyone who reads or writes them: CPU, CUDA, bindings, tests, files.
//
// A block is one chunk of one kv head of one layer, keys or values, of a size that follows from its shape alone: no
// pointers, nothing variable. Little-endian; 64-byte aligned; offsets from its first byte, sections in this order:
//
//   0            header             kv_block_header, 16 bytes: the block says what it is
//   16           scales             f16; keys [n_groups, head_dim], values [n_tokens]
//   outliers     outlier values     f16 [n_outlying], in the order of
//   index        outlier places     keys u16 [n_outlying]: token in its tile << 11 | channel, by tile, token, channel
//                                   values u8, u16 if head_dim > 256, [n_tokens, n_outliers]: channels, ascending
//   tiles        (keys) u32 [n_tiles + 1]: how many outliers lie before each tile of 32 tokens
//   centres      i8, as many as scales; absent when symmetric
//   (padding to 64 bytes)
//   codes        bricks of 64 codes, 8 * bits bytes each
//   (padding to 64 bytes)
//
// A code u of b bits, 0 ... 2^b - 1, stands for scale * (u - 2^(b-1) + centre); an outlier's value is added to what its
// code stands for. Keys share a scale per channel (over a group of tokens), values per token: outliers and scales of
// keys live in few channels, those of values do not (KVQuant, arXiv 2401.18079; KIVI, arXiv 2402.02750). So key scales
// fold into the query and value scales into the softmax weights, and what is left are products of small integers.
//
// A brick is what one step of an integer dot product wants: 4 numbers to sum over, 16 to keep apart.
//   keys   [16 tokens][4 channels]  bricks ordered [n_tokens / 16][head_dim / 4]
//   values [16 channels][4 tokens]  bricks ordered, per tile of 32 tokens, [head_dim / 16][tokens of the tile / 4]
// each dimension rounded up; codes beyond the end are 0 and must not be read as data. A brick's code i (0 ... 63) lies
//   2 bits: byte i % 16, bits 2 (i / 16)        3 bits: as 2, then 8 bytes whose bit i is the code's third
//   4 bits: byte i % 32, bits 4 (i / 32)        5 bits: as 4, then 8 bytes whose bit i is the code's fifth
//   8 bits: byte i                              6 bits: as 4, then 16 bytes as 2: the code's fifth and sixth
//
// Version 2 (keys only): channels in classes of width. Channels stand in an order of the block's own, each four of them
// (a quad) with a width of its own, and have minima in f16 instead of centres:
//
//   0            header             version 2, bits 0, width_sum: the sum of the quads' widths
//   16           scales             f16 [n_groups, head_dim], in the block's order
//   minima       f16                as many: a code u stands for minimum + scale * u
//   order        u16 [head_dim]     which channel stands there; a permutation
//   widths       u8 [head_dim / 4]  of the quads: 8, 6, 5, 4, 3, 2 or 0, never rising
//   (padding to 64 bytes)
//   codes        [n_tokens / 16] rows of bricks, quad after quad, 8 * width bytes each
//   (padding to 64 bytes)
//
// A quad of width 0 has no bricks: its channels stand for their minima.
//
// Version 3 (keys and values): every channel has a scale of its own for all tokens, and every quad of channels, in
// their own order, a width; codes are symmetric:
//
//   0            header             version 3, bits 0, group n_tokens, width_sum: the sum of the quads' widths
//   16           scales             f16 [head_dim]
//   widths       u8 [head_dim / 4]  of the quads: 16, 8, 5, 4, 3 or 2
//   (padding to 64 bytes)
//   codes        [n_tokens / 16] rows of bricks, quad after quad, 8 * width bytes each
//   (padding to 64 bytes)
//
// A code u of width w stands for scale * (u - 2^(w-1)). In a quad of width 16 a brick holds the entries themselves, f16
// [16 tokens][4 channels], and scales are 1.
//
// Version 4 (keys and values): every token has a scale and a minimum of its own:
//
//   0            header             version 4, group 1
//   16           scales             f16 [n_tokens]
//   minima       f16 [n_tokens]     a code u stands for minimum + scale * u
//   (padding to 64 bytes)
//   codes        bricks of the block's bits, as in version 1
//   (padding to 64 bytes)
//
// Version 5 (keys and values): a chunk's tokens by level; those of a level, in order, are a block of their own:
//
//   0            header             version 5, bits 0, group n_tokens, the block's lines of 64 bytes
//   16           levels             kv_level [3], none of which need have tokens
//   40           places             u8 [n_tokens]: the token's level; kv_no_level: it is not in the block
//   (padding to 64 bytes)
//   blocks       of version 2 (keys), 3 or 4
//
// Version 6 (values): every token has a scale and a minimum for each group of channels:
//
//   0            header             version 6, group: 32 channels; the last one may have fewer; bits up to 5
//   16           scales             f16 [n_groups, n_tokens]
//   minima       f16 [n_groups, n_tokens]
//   (padding to 64 bytes)
//   codes        bricks of the block's bits, as in version 1
//   (padding to 64 bytes)
//
// A code u stands for minimum + scale * u.
//
// Version 7 (keys and values): codes are places in a codebook of the block's, and some entries are kept as they are:
//
//   0            header             version 7, bits 2, 3 or 4; group: of keys n_tokens, of values 1; room for outliers
//   16           levels             f16 [2^bits], ascending
//   scales       f16                of keys [head_dim], of values [n_tokens]
//   minima       f16                as many: a code u stands for minimum + scale * levels[u]
//   outliers     f16 [room]         the entries themselves, in the order of the index
//   index        u16 [room]         token in its tile << 11 | channel, by tile, token, channel
//   tiles        u32 [n_tiles + 1]  how many outliers lie before each tile of 32 tokens; the rest of the room is 0
//   (padding to 64 bytes)
//   codes        bricks of the block's bits, as in version 1; 0 of outliers
//   (padding to 64 bytes)

#include <cstddef>
#include <cstdint>

#include "kv/host_device.h"

namespace livekv {

constexpr int32_t kv_block_version = 1;
constexpr int32_t kv_block_classes = 2;   // the version whose channels stand in classes of width
constexpr int32_t kv_block_channels = 3;  // the version whose channels, keys' or values', have a scale each
constexpr int32_t kv_block_tokens = 4;    // the version whose tokens, keys or values, have a scale and a minimum each
constexpr int32_t kv_block_levels = 5;    // the version whose tokens lie in blocks of the other versions, by level
constexpr int32_t kv_block_groups = 6;    // the version of values whose tokens have them for each group of channels
constexpr int32_t kv_block_codebook = 7;  // the version whose codes are places in a codebook
constexpr int32_t kv_tile_tokens = 32;    // key groups and value bricks never straddle a tile
constexpr int32_t kv_block_align = 64;    // bytes
constexpr int32_t kv_max_block_tokens = 4096;
constexpr int32_t kv_max_head_dim = 2048;  // 11 bits of an outlier's place
constexpr int32_t kv_group_channels = 32;  // of a group in version 6

enum class kv_side : uint8_t { key = 0, value = 1 };

// Everything a block's layout depends on.
struct kv_block_header {
    uint16_t n_tokens;    // 1 ... 4096
    uint16_t head_dim;    // a multiple of 8
    uint16_t group;       // tokens that share a channel's scale; values: 1; version 6: channels that share a token's
    uint16_t n_outliers;  // keys: per channel; values: per token
    uint8_t bits;         // 2, 3, 4, 5 or 8; 0 in versions 2, 3 and 5
    kv_side side;
    uint8_t has_centres;  // asymmetric; 0 in versions 2 and 3
    uint8_t version;      // kv_block_version, _classes, _channels, _tokens, _levels, _groups or _codebook
    uint16_t width_sum;   // versions 2 and 3: of its quads; version 5: lines of 64 bytes, version 7: room for outliers,
                          // of either the lower half; else 0
    uint16_t lines_high;  // versions 5 and 7: the upper half; else 0

    LIVEKV_HD constexpr bool has_classes() const { return version == kv_block_classes; }
    LIVEKV_HD constexpr bool has_channels() const { return version == kv_block_channels; }
    LIVEKV_HD constexpr bool has_tokens() const { return version == kv_block_tokens; }
    LIVEKV_HD constexpr bool has_levels() const { return version == kv_block_levels; }
    LIVEKV_HD constexpr bool has_groups() const { return version == kv_block_groups; }
    LIVEKV_HD constexpr bool has_codebook() const { return version == kv_block_codebook; }

    // Versions 4 and 6, whose tokens have minima: grids of one token.
    LIVEKV_HD constexpr bool has_token_minima() const { return has_tokens() || has_groups(); }
    LIVEKV_HD constexpr int32_t tokens_a_grid() const { return has_groups() ? 1 : group; }
    LIVEKV_HD constexpr int32_t grids_a_token() const { return has_groups() ? (head_dim + group - 1) / group : 1; }
};
static_assert(sizeof(kv_block_header) == 16, "the first section");
static_assert(offsetof(kv_block_header, n_tokens) == 0 && offsetof(kv_block_header, head_dim) == 2, "byte map");
static_assert(offsetof(kv_block_header, group) == 4 && offsetof(kv_block_header, n_outliers) == 6, "byte map");
static_assert(offsetof(kv_block_header, bits) == 8 && offsetof(kv_block_header, side) == 9, "byte map");
static_assert(offsetof(kv_block_header, has_centres) == 10 && offsetof(kv_block_header, version) == 11, "byte map");

// Tokens of one level in a block of version 5.
struct kv_level {
    uint32_t offset;    // of their block from this one's first byte; a multiple of 64
    uint16_t n_tokens;  // 0: none, and the others are 0
    uint16_t bits;      // 16, 8, 5, 4, 3 or 2
};
constexpr int32_t kv_n_levels = 3;
constexpr uint8_t kv_no_level = 255;
static_assert(sizeof(kv_level) == 8, "a section");

// Byte offsets of a block's sections, and counts.
struct kv_block_map {
    size_t scales = 0;
    size_t outliers = 0;
    size_t index = 0;
    size_t tiles = 0;
    size_t centres = 0;
    size_t minima = 0;  // versions 2, 4, 6 and 7
    size_t order = 0;   // version 2
    size_t widths = 0;  // versions 2 and 3
    size_t levels = 0;  // versions 5 and 7
    size_t places = 0;  // version 5
    size_t codes = 0;
    size_t bytes = 0;
    size_t padding = 0;  // bytes of it that hold nothing: alignment, and codes beyond the end
    int32_t n_scales = 0;
    int32_t n_outlying = 0;
    int32_t index_bytes = 0;  // of one place
    int32_t brick_bytes = 0;  // versions 2 and 3: 0, as bricks differ
    int32_t n_tiles = 0;
};

LIVEKV_HD static constexpr size_t kv_align(size_t n, size_t to) {
    return (n + to - 1) / to * to;
}
LIVEKV_HD static constexpr int32_t kv_ceil_div(int32_t n, int32_t by) {
    return (n + by - 1) / by;
}

LIVEKV_HD static constexpr kv_block_map kv_map_classes(const kv_block_header & h) {
    kv_block_map m;
    const size_t d = h.head_dim;
    m.n_scales = kv_ceil_div(h.n_tokens, h.group) * h.head_dim;
    m.n_tiles = kv_ceil_div(h.n_tokens, kv_tile_tokens);
    m.scales = sizeof(kv_block_header);
    m.minima = m.scales + 2 * static_cast<size_t>(m.n_scales);
    m.order = m.minima + 2 * static_cast<size_t>(m.n_scales);
    m.widths = m.order + 2 * d;
    m.outliers = m.index = m.tiles = m.centres = m.widths + d / 4;
    m.codes = kv_align(m.centres, kv_block_align);
    const size_t code_bytes = static_cast<size_t>(kv_ceil_div(h.n_tokens, 16)) * 8 * h.width_sum;
    m.bytes = kv_align(m.codes + code_bytes, kv_block_align);
    m.padding = (m.codes - m.centres) + (m.bytes - m.codes) - kv_ceil_div(h.n_tokens * h.width_sum, 2);
    return m;
}

LIVEKV_HD static constexpr kv_block_map kv_map_channels(const kv_block_header & h) {
    kv_block_map m;
    m.n_scales = h.head_dim;
    m.n_tiles = kv_ceil_div(h.n_tokens, kv_tile_tokens);
    m.scales = sizeof(kv_block_header);
    m.widths = m.scales + 2 * size_t{h.head_dim};
    m.outliers = m.index = m.tiles = m.centres = m.widths + h.head_dim / 4;
    m.codes = kv_align(m.centres, kv_block_align);
    const size_t code_bytes = static_cast<size_t>(kv_ceil_div(h.n_tokens, 16)) * 8 * h.width_sum;
    m.bytes = kv_align(m.codes + code_bytes, kv_block_align);
    m.padding = (m.codes - m.centres) + (m.bytes - m.codes) - kv_ceil_div(h.n_tokens * h.width_sum, 2);
    return m;
}

// How many bricks hold the codes of a block whose bits are one number.
LIVEKV_HD static constexpr size_t kv_n_bricks(const kv_block_header & h) {
    return h.side == kv_side::key
               ? static_cast<size_t>(kv_ceil_div(h.n_tokens, 16)) * static_cast<size_t>(h.head_dim / 4)
               : static_cast<size_t>(kv_ceil_div(h.head_dim, 16)) * static_cast<size_t>(kv_ceil_div(h.n_tokens, 4));
}

// Of versions 4 and 6.
LIVEKV_HD static constexpr kv_block_map kv_map_tokens(const kv_block_header & h) {
    kv_block_map m;
    m.n_scales = h.n_tokens * h.grids_a_token();
    m.brick_bytes = 8 * h.bits;
    m.n_tiles = kv_ceil_div(h.n_tokens, kv_tile_tokens);
    m.scales = sizeof(kv_block_header);
    m.minima = m.scales + 2 * static_cast<size_t>(m.n_scales);
    m.outliers = m.index = m.tiles = m.centres = m.minima + 2 * static_cast<size_t>(m.n_scales);
    m.codes = kv_align(m.centres, kv_block_align);
    m.bytes = kv_align(m.codes + kv_n_bricks(h) * static_cast<size_t>(m.brick_bytes), kv_block_align);
    const size_t n_codes = static_cast<size_t>(h.n_tokens) * static_cast<size_t>(h.head_dim);
    m.padding = (m.codes - m.centres) + (m.bytes - m.codes - (n_codes * h.bits + 7) / 8);
    return m;
}

// Without what is in its levels' blocks, whose bricks start at codes.
LIVEKV_HD static constexpr kv_block_map kv_map_levels(const kv_block_header & h) {
    kv_block_map m;
    m.n_tiles = kv_ceil_div(h.n_tokens, kv_tile_tokens);
    m.levels = m.scales = sizeof(kv_block_header);
    m.places = m.levels + kv_n_levels * sizeof(kv_level);
    m.outliers = m.index = m.tiles = m.centres = m.places + h.n_tokens;
    m.codes = kv_align(m.centres, kv_block_align);
    m.bytes = (h.width_sum + (size_t{h.lines_high} << 16)) * kv_block_align;
    m.padding = m.codes - m.centres;
    return m;
}

LIVEKV_HD static constexpr kv_block_map kv_map_codebook(const kv_block_header & h) {
    kv_block_map m;
    m.n_scales = h.side == kv_side::key ? h.head_dim : h.n_tokens;
    m.n_outlying = h.width_sum + (int32_t{h.lines_high} << 16);
    m.index_bytes = 2;
    m.brick_bytes = 8 * h.bits;
    m.n_tiles = kv_ceil_div(h.n_tokens, kv_tile_tokens);
    m.levels = sizeof(kv_block_header);
    m.scales = m.levels + (size_t{2} << h.bits);
    m.minima = m.scales + 2 * static_cast<size_t>(m.n_scales);
    m.outliers = m.minima + 2 * static_cast<size_t>(m.n_scales);
    m.index = m.outliers + 2 * static_cast<size_t>(m.n_outlying);
    const size_t index_end = m.index + 2 * static_cast<size_t>(m.n_outlying);
    m.tiles = kv_align(index_end, 4);
    m.centres = m.tiles + 4 * static_cast<size_t>(m.n_tiles + 1);
    m.codes = kv_align(m.centres, kv_block_align);
    m.bytes = kv_align(m.codes + kv_n_bricks(h) * static_cast<size_t>(m.brick_bytes), kv_block_align);
    const size_t n_codes = static_cast<size_t>(h.n_tokens) * static_cast<size_t>(h.head_dim);
    m.padding = (m.tiles - index_end) + (m.codes - m.centres) + (m.bytes - m.codes - (n_codes * h.bits + 7) / 8);
    return m;
}

LIVEKV_HD static constexpr kv_block_map kv_map(const kv_block_header & h) {
    if (h.has_classes()) {
        return kv_map_classes(h);
    }
    if (h.has_token_minima()) {
        return kv_map_tokens(h);
    }
    if (h.has_levels()) {
        return kv_map_levels(h);
    }
    if (h.has_channels()) {
        return kv_map_channels(h);
    }
    if (h.has_codebook()) {
        return kv_map_codebook(h);
    }
    const bool key = h.side == kv_side::key;
    kv_block_map m;
    m.n_scales = key ? kv_ceil_div(h.n_tokens, h.group) * h.head_dim : h.n_tokens;
    m.n_outlying = (key ? h.head_dim : h.n_tokens) * h.n_outliers;
    m.index_bytes = key || h.head_dim > 256 ? 2 : 1;
    m.brick_bytes = 8 * h.bits;
    m.n_tiles = kv_ceil_div(h.n_tokens, kv_tile_tokens);
    m.scales = sizeof(kv_block_header);
    m.outliers = m.scales + 2 * static_cast<size_t>(m.n_scales);
    m.index = m.outliers + 2 * static_cast<size_t>(m.n_outlying);
    const size_t index_end = m.index + static_cast<size_t>(m.index_bytes) * static_cast<size_t>(m.n_outlying);
    m.tiles = kv_align(index_end, 4);
    const bool has_tiles = key && h.n_outliers > 0;
    m.centres = has_tiles ? m.tiles + 4 * static_cast<size_t>(m.n_tiles + 1) : index_end;
    const size_t head_end = m.centres + (h.has_centres ? static_cast<size_t>(m.n_scales) : 0);
    m.codes = kv_align(head_end, kv_block_align);
    const size_t codes_end = m.codes + kv_n_bricks(h) * static_cast<size_t>(m.brick_bytes);
    m.bytes = kv_align(codes_end, kv_block_align);
    const size_t n_codes = static_cast<size_t>(h.n_tokens) * static_cast<size_t>(h.head_dim);
    const size_t used_codes = (n_codes * h.bits + 7) / 8;
    m.padding = (m.codes - head_end) + (has_tiles ? m.tiles - index_end : 0) + (m.bytes - m.codes - used_codes);
    return m;
}

// Which brick holds (token, channel), and which of its 64 codes that is.
struct kv_place {
    size_t brick;
    int32_t code;
};

LIVEKV_HD static constexpr kv_place kv_key_place(int32_t head_dim, int32_t token, int32_t channel) {
    const size_t brick =
        static_cast<size_t>(token / 16) * static_cast<size_t>(head_dim / 4) + static_cast<size_t>(channel / 4);
    return {brick, token % 16 * 4 + channel % 4};
}

// Bricks of the values of one tile start here; tile_quads: how many bricks of 4 tokens a full or the last tile has.
LIVEKV_HD static constexpr size_t kv_value_tile_brick(int32_t head_dim, int32_t tile) {
    return static_cast<size_t>(tile) * static_cast<size_t>(kv_ceil_div(head_dim, 16)) * (kv_tile_tokens / 4);
}

LIVEKV_HD static constexpr int32_t kv_value_tile_quads(int32_t n_tokens, int32_t tile) {
    const int32_t left = n_tokens - tile * kv_tile_tokens;
    return kv_ceil_div(left < kv_tile_tokens ? left : kv_tile_tokens, 4);
}

LIVEKV_HD static constexpr kv_place kv_value_place(int32_t n_tokens, int32_t head_dim, int32_t token, int32_t channel) {
    const int32_t tile = token / kv_tile_tokens;
    const int32_t quad = token % kv_tile_tokens / 4;
    const size_t within = static_cast<size_t>(channel / 16) * static_cast<size_t>(kv_value_tile_quads(n_tokens, tile)) +
                          static_cast<size_t>(quad);
    return {kv_value_tile_brick(head_dim, tile) + within, channel % 16 * 4 + token % 4};
}

LIVEKV_HD static constexpr kv_place kv_place_of(const kv_block_header & h, int32_t token, int32_t channel) {
    return h.side == kv_side::key ? kv_key_place(h.head_dim, token, channel)
                                  : kv_value_place(h.n_tokens, h.head_dim, token, channel);
}

LIVEKV_HD static constexpr kv_block_header kv_header(kv_side side, int32_t n_tokens, int32_t head_dim, int32_t bits,
                                                     int32_t group, int32_t n_outliers, bool has_centres) {
    return {static_cast<uint16_t>(n_tokens),
            static_cast<uint16_t>(head_dim),
            static_cast<uint16_t>(side == kv_side::key ? group : 1),
            static_cast<uint16_t>(n_outliers),
            static_cast<uint8_t>(bits),
            side,
            static_cast<uint8_t>(has_centres),
            kv_block_version,
            0,
            0};
}

// Of keys whose quads' widths sum up to width_sum.
LIVEKV_HD static constexpr kv_block_header kv_class_header(int32_t n_tokens, int32_t head_dim, int32_t group,
                                                           int32_t width_sum) {
    kv_block_header h = kv_header(kv_side::key, n_tokens, head_dim, 0, group, 0, false);
    h.version = kv_block_classes;
    h.width_sum = static_cast<uint16_t>(width_sum);
    return h;
}

// Keys or values whose channels have a scale each, and whose quads' widths sum up to width_sum.
LIVEKV_HD static constexpr kv_block_header kv_channel_header(kv_side side, int32_t n_tokens, int32_t head_dim,
                                                             int32_t width_sum) {
    kv_block_header h = kv_header(side, n_tokens, head_dim, 0, 1, 0, false);
    h.group = h.n_tokens;
    h.version = kv_block_channels;
    h.width_sum = static_cast<uint16_t>(width_sum);
    return h;
}

// Keys or values whose tokens have a scale and a minimum each.
LIVEKV_HD static constexpr kv_block_header kv_token_header(kv_side side, int32_t n_tokens, int32_t head_dim,
                                                           int32_t bits) {
    kv_block_header h = kv_header(side, n_tokens, head_dim, bits, 1, 0, false);
    h.version = kv_block_tokens;
    return h;
}

// Values whose tokens have a scale and a minimum for each group of channels.
LIVEKV_HD static constexpr kv_block_header kv_group_header(int32_t n_tokens, int32_t head_dim, int32_t bits) {
    kv_block_header h = kv_header(kv_side::value, n_tokens, head_dim, bits, 1, 0, false);
    h.group = kv_group_channels;
    h.version = kv_block_groups;
    return h;
}

// Codes of a codebook, and room for so many outliers.
LIVEKV_HD static constexpr kv_block_header kv_codebook_header(kv_side side, int32_t n_tokens, int32_t head_dim,
                                                              int32_t bits, uint32_t n_outlying) {
    kv_block_header h = kv_header(side, n_tokens, head_dim, bits, n_tokens, 0, false);
    h.version = kv_block_codebook;
    h.width_sum = static_cast<uint16_t>(n_outlying & 0xffff);
    h.lines_high = static_cast<uint16_t>(n_outlying >> 16);
    return h;
}

// A chunk's tokens by level, in so many bytes, a multiple of 64.
LIVEKV_HD static constexpr kv_block_header kv_level_header(kv_side side, int32_t n_tokens, int32_t head_dim,
                                                           size_t bytes) {
    kv_block_header h = kv_header(side, n_tokens, head_dim, 0, 1, 0, false);
    h.group = h.n_tokens;
    h.version = kv_block_levels;
    h.width_sum = static_cast<uint16_t>(bytes / kv_block_align & 0xffff);
    h.lines_high = static_cast<uint16_t>(bytes / kv_block_align >> 16);
    return h;
}

// The budget of design: head_dim 128, 512 tokens, 4 bits, 1 % outliers, one symmetric scale a chunk. Keys: 5 outliers
// of 4 bytes and a scale per channel; values: one of 3 bytes and a scale per token.
constexpr kv_block_map kv_map_example_k = kv_map(kv_header(kv_side::key, 512, 128, 4, 512, 5, false));
static_assert(kv_map_example_k.scales == 16 && kv_map_example_k.outliers == 16 + 256, "byte map");
static_assert(kv_map_example_k.index == 272 + 1280 && kv_map_example_k.tiles == 1552 + 1280, "byte map");
static_assert(kv_map_example_k.centres == 2832 + 4 * 17 && kv_map_example_k.codes == 2944, "byte map");
static_assert(kv_map_example_k.bytes == 2944 + 32768, "4.36 bits a value");
constexpr kv_block_map kv_map_example_v = kv_map(kv_header(kv_side::value, 512, 128, 4, 1, 1, false));
static_assert(kv_map_example_v.outliers == 16 + 1024 && kv_map_example_v.index == 1040 + 1024, "byte map");
static_assert(kv_map_example_v.centres == 2064 + 512 && kv_map_example_v.codes == 2624, "byte map");
static_assert(kv_map_example_v.bytes == 2624 + 32768, "4.32 bits a value");
constexpr kv_block_map kv_map_example_c = kv_map(kv_class_header(512, 64, 128, 16 * 4));
static_assert(kv_map_example_c.minima == 16 + 512 && kv_map_example_c.order == 528 + 512, "byte map");
static_assert(kv_map_example_c.widths == 1040 + 128 && kv_map_example_c.codes == 1216, "byte map");
static_assert(kv_map_example_c.bytes == 1216 + 16384, "4.30 bits a key");
constexpr kv_block_map kv_map_example_s = kv_map(kv_channel_header(kv_side::value, 512, 64, 16 * 4));
static_assert(kv_map_example_s.widths == 16 + 128 && kv_map_example_s.codes == 192, "byte map");
static_assert(kv_map_example_s.bytes == 192 + 16384, "4.05 bits a value");
constexpr kv_block_map kv_map_example_t = kv_map(kv_token_header(kv_side::value, 512, 64, 2));
static_assert(kv_map_example_t.minima == 16 + 1024 && kv_map_example_t.codes == 2112, "byte map");
static_assert(kv_map_example_t.bytes == 2112 + 8192, "2.52 bits a value");
constexpr kv_block_map kv_map_example_g = kv_map(kv_group_header(128, 128, 2));
static_assert(kv_map_example_g.minima == 16 + 1024 && kv_map_example_g.codes == 2112, "byte map");
static_assert(kv_map_example_g.bytes == 2112 + 4096, "3.03 bits a value");
constexpr kv_block_map kv_map_example_q = kv_map(kv_codebook_header(kv_side::key, 512, 128, 4, 655));
static_assert(kv_map_example_q.scales == 16 + 32 && kv_map_example_q.outliers == 48 + 512, "byte map");
static_assert(kv_map_example_q.tiles == 560 + 4 * 655 && kv_map_example_q.codes == 3264, "byte map");
static_assert(kv_map_example_q.bytes == 3264 + 32768, "4.40 bits a key");

}  // namespace livekv
