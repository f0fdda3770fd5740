#include "kv/kv_pack.h"

#include <algorithm>

#include "error.h"
#include "kv/f16.h"
#include "kv/kvquant_block.h"
#include "kv/level_block.h"
#include "unaligned.h"

namespace livekv {

namespace {

kv_block_header header_of(const uint8_t * block) {
    return load<kv_block_header>(block);
}

// Bits `width` of a plane that starts at plane, for code i; per_row codes share a row of bytes.
int32_t get_plane(const uint8_t * plane, int32_t i, int32_t width) {
    const int32_t n_bytes = 8 * width;
    return (plane[i % n_bytes] >> (width * (i / n_bytes))) & ((1 << width) - 1);
}

void set_plane(uint8_t * plane, int32_t i, int32_t width, int32_t u) {
    const int32_t n_bytes = 8 * width;
    const int32_t shift = width * (i / n_bytes);
    uint8_t & byte = plane[i % n_bytes];
    byte = static_cast<uint8_t>((byte & ~(((1 << width) - 1) << shift)) | (u << shift));
}

int32_t base_bits(int32_t bits) {
    return bits == 3 ? 2 : bits == 5 || bits == 6 ? 4 : bits;
}

const uint8_t * brick_of(const uint8_t * block, const kv_block_header & h, const kv_place & place) {
    const kv_block_map map = kv_map(h);
    return block + map.codes + place.brick * static_cast<size_t>(map.brick_bytes);
}

int32_t get_code(const uint8_t * brick, int32_t bits, int32_t i) {
    const int32_t base = base_bits(bits);
    int32_t u = get_plane(brick, i, base);
    if (bits == 6) {
        u |= get_plane(brick + 8 * base, i, 2) << base;
    } else if (base != bits) {
        u |= ((brick[8 * base + i / 8] >> (i % 8)) & 1) << base;
    }
    return u;
}

void set_code(uint8_t * brick, int32_t bits, int32_t i, int32_t u) {
    const int32_t base = base_bits(bits);
    set_plane(brick, i, base, u & ((1 << base) - 1));
    if (bits == 6) {
        set_plane(brick + 8 * base, i, 2, u >> base);
    } else if (base != bits) {
        uint8_t & byte = brick[8 * base + i / 8];
        byte = static_cast<uint8_t>((byte & ~(1 << (i % 8))) | ((u >> base) << (i % 8)));
    }
}

key_classes classes_of(const uint8_t * block, const kv_block_header & h) {
    const kv_block_map map = kv_map(h);
    key_classes c;
    for (size_t i = 0; i < h.head_dim; ++i) {
        c.order.push_back(load<uint16_t>(block + map.order + 2 * i));
    }
    c.widths.assign(block + map.widths, block + map.widths + h.head_dim / 4);
    return c;
}

// f(channel, where it stands, the brick of its first 16 tokens, its width), for each channel of a block of version 2.
template <typename F>
void each_class_channel(const uint8_t * block, const kv_block_header & h, const key_classes & classes, F && f) {
    const uint8_t * brick = block + kv_map(h).codes;
    for (size_t i = 0; i < classes.order.size(); ++i) {
        const int32_t width = classes.widths[i / 4];
        f(size_t{classes.order[i]}, i, brick, width);
        brick += i % 4 == 3 ? 8 * width : 0;
    }
}

std::vector<uint8_t> pack_classes(const kv_block_header & h, const sealed_chunk & sealed) {
    const kv_block_map map = kv_map(h);
    std::vector<uint8_t> bytes(map.bytes);
    uint8_t * block = bytes.data();
    store(block, h);
    const size_t d = h.head_dim;
    for (size_t i = 0; i < d; ++i) {
        store(block + map.order + 2 * i, sealed.classes.order[i]);
    }
    std::copy(sealed.classes.widths.begin(), sealed.classes.widths.end(), block + map.widths);
    each_class_channel(block, h, sealed.classes, [&](size_t c, size_t at, const uint8_t * first, int32_t width) {
        for (size_t g = 0; g < sealed.scale.size() / d; ++g) {
            store(block + map.scales + 2 * (g * d + at), f32_to_f16(sealed.scale[g * d + c]));
            store(block + map.minima + 2 * (g * d + at), f32_to_f16(sealed.minimum[g * d + c]));
        }
        for (size_t t = 0; width > 0 && t < h.n_tokens; ++t) {
            uint8_t * brick = const_cast<uint8_t *>(first) + t / 16 * 8 * h.width_sum;
            set_code(brick, width, static_cast<int32_t>(t % 16 * 4 + at % 4), sealed.codes[t * d + c]);
        }
    });
    return bytes;
}

// Of a block whose channels have scales: the shape, and room for the codes.
sealed_chunk begin_channels(const kv_block_header & h) {
    sealed_chunk sealed;
    sealed.n_tokens = h.n_tokens;
    sealed.head_dim = h.head_dim;
    sealed.per_channel = true;
    sealed.group = h.group;
    sealed.codes.resize(static_cast<size_t>(h.n_tokens) * h.head_dim);
    return sealed;
}

sealed_chunk read_classes(const uint8_t * block, const kv_block_header & h) {
    const kv_block_map map = kv_map(h);
    const size_t d = h.head_dim;
    sealed_chunk sealed = begin_channels(h);
    sealed.classes = classes_of(block, h);
    sealed.scale.resize(static_cast<size_t>(map.n_scales));
    sealed.minimum.resize(sealed.scale.size());
    each_class_channel(block, h, sealed.classes, [&](size_t c, size_t at, const uint8_t * first, int32_t width) {
        for (size_t g = 0; g < sealed.scale.size() / d; ++g) {
            sealed.scale[g * d + c] = f16_to_f32(load<uint16_t>(block + map.scales + 2 * (g * d + at)));
            sealed.minimum[g * d + c] = f16_to_f32(load<uint16_t>(block + map.minima + 2 * (g * d + at)));
        }
        for (size_t t = 0; width > 0 && t < h.n_tokens; ++t) {
            const uint8_t * brick = first + t / 16 * 8 * h.width_sum;
            sealed.codes[t * d + c] =
                static_cast<int16_t>(get_code(brick, width, static_cast<int32_t>(t % 16 * 4 + at % 4)));
        }
    });
    return sealed;
}

// Entries of 16 bits are told as outliers.
sealed_chunk read_channels(const uint8_t * block, const kv_block_header & h) {
    const kv_block_map map = kv_map(h);
    const size_t d = h.head_dim;
    sealed_chunk sealed = begin_channels(h);
    for (size_t c = 0; c < d; ++c) {
        sealed.scale.push_back(f16_to_f32(load<uint16_t>(block + map.scales + 2 * c)));
        sealed.classes.order.push_back(static_cast<uint16_t>(c));
    }
    const uint8_t * const widths = block + map.widths;
    sealed.classes.widths.assign(widths, widths + d / 4);
    const uint8_t * brick = block + map.codes;
    for (size_t first = 0; first < h.n_tokens; first += 16) {
        const size_t n_here = std::min<size_t>(16, h.n_tokens - first);
        const uint8_t * const row = brick;
        for (size_t i = 0; i < n_here * d; ++i) {
            const size_t c = i % d;
            const int32_t width = widths[c / 4];
            const size_t place = i / d * 4 + c % 4;
            brick = c == 0 ? row : brick;
            if (width == 16) {
                sealed.outlier_index.push_back(static_cast<int32_t>(first * d + i));
                sealed.outlier_value.push_back(f16_to_f32(load<uint16_t>(brick + 2 * place)));
            } else {
                const int32_t u = get_code(brick, width, static_cast<int32_t>(place));
                sealed.codes[first * d + i] = static_cast<int16_t>(u - (1 << (width - 1)));
            }
            brick += c % 4 == 3 ? 8 * width : 0;
        }
    }
    return sealed;
}

// Token and channel of outlier number i.
std::pair<int32_t, int32_t> outlier_place(const uint8_t * block, const kv_block_header & h, const kv_block_map & map,
                                          int32_t i) {
    const uint8_t * at = block + map.index + static_cast<size_t>(i * map.index_bytes);
    const int32_t place = map.index_bytes == 2 ? load<uint16_t>(at) : *at;
    if (h.side == kv_side::value) {
        return {i / h.n_outliers, place};
    }
    int32_t tile = 0;
    while (load<uint32_t>(block + map.tiles + 4 * static_cast<size_t>(tile + 1)) <= static_cast<uint32_t>(i)) {
        ++tile;
    }
    return {tile * kv_tile_tokens + (place >> 11), place & 0x7ff};
}

float level_of(const uint8_t * block, const kv_block_header & h, const kv_block_map & map, int32_t token,
               int32_t channel) {
    const int32_t i = h.side == kv_side::key ? token / h.group * h.head_dim + channel : token;
    const float scale = f16_to_f32(load<uint16_t>(block + map.scales + 2 * static_cast<size_t>(i)));
    const int32_t centre = h.has_centres ? load<int8_t>(block + map.centres + i) : 0;
    return scale * static_cast<float>(block_code(block, token, channel) - (1 << (h.bits - 1)) + centre);
}

void write_outliers(const kv_block_header & h, const kv_block_map & map, const sealed_chunk & sealed, uint8_t * block) {
    int32_t tile = 0;
    for (int32_t i = 0; i < map.n_outlying; ++i) {
        const int32_t position = sealed.outlier_index[static_cast<size_t>(i)];
        const int32_t token = position / h.head_dim;
        const int32_t channel = position % h.head_dim;
        const float delta = sealed.outlier_value[static_cast<size_t>(i)] - level_of(block, h, map, token, channel);
        store(block + map.outliers + 2 * static_cast<size_t>(i),
              f32_to_f16_finite(delta));  // two large numbers may be far apart
        uint8_t * place = block + map.index + static_cast<size_t>(i * map.index_bytes);
        if (h.side == kv_side::value) {
            map.index_bytes == 2 ? store(place, static_cast<uint16_t>(channel))
                                 : store(place, static_cast<uint8_t>(channel));
            continue;
        }
        store(place, static_cast<uint16_t>(token % kv_tile_tokens << 11 | channel));
        for (; tile < token / kv_tile_tokens; ++tile) {
            store(block + map.tiles + 4 * static_cast<size_t>(tile + 1), static_cast<uint32_t>(i));
        }
    }
    for (; h.side == kv_side::key && h.n_outliers > 0 && tile < map.n_tiles; ++tile) {
        store(block + map.tiles + 4 * static_cast<size_t>(tile + 1), static_cast<uint32_t>(map.n_outlying));
    }
}

}  // namespace

kv_block_header block_header(const kv_method & method, kv_side side, int64_t n_tokens, int64_t head_dim) {
    if (head_dim <= 0 || head_dim % 8 != 0 || head_dim > kv_max_head_dim) {
        fail("the livekv cache stores heads of a multiple of 8 values, up to ", kv_max_head_dim, ", but head_dim is ",
             head_dim);
    }
    LIVEKV_ASSERT(n_tokens > 0 && n_tokens <= kv_max_block_tokens);
    const bool key = side == kv_side::key;
    if (key && method.key_classes) {
        return kv_class_header(static_cast<int32_t>(n_tokens), static_cast<int32_t>(head_dim),
                               static_cast<int32_t>(method.group_of(n_tokens)), method.width_sum(head_dim));
    }
    return kv_header(side, static_cast<int32_t>(n_tokens), static_cast<int32_t>(head_dim),
                     key ? method.k_bits : method.v_bits, static_cast<int32_t>(method.group_of(n_tokens)),
                     key ? method.k_outliers(n_tokens) : method.v_outliers(head_dim), method.has_zero());
}

int32_t block_code(const uint8_t * block, int32_t token, int32_t channel) {
    const kv_block_header h = header_of(block);
    const kv_place place = kv_place_of(h, token, channel);
    return get_code(brick_of(block, h, place), h.bits, place.code);
}

void set_block_code(uint8_t * block, int32_t token, int32_t channel, int32_t u) {
    const kv_block_header h = header_of(block);
    const kv_place place = kv_place_of(h, token, channel);
    set_code(const_cast<uint8_t *>(brick_of(block, h, place)), h.bits, place.code, u);
}

std::vector<uint8_t> pack_block(const kv_block_header & h, const sealed_chunk & sealed) {
    const kv_block_map map = kv_map(h);
    LIVEKV_ASSERT(sealed.n_tokens == h.n_tokens && sealed.head_dim == h.head_dim);
    LIVEKV_ASSERT(static_cast<int32_t>(sealed.scale.size()) == map.n_scales);
    if (h.has_classes()) {
        return pack_classes(h, sealed);
    }
    LIVEKV_ASSERT(static_cast<int32_t>(sealed.outlier_index.size()) == map.n_outlying);
    std::vector<uint8_t> bytes(map.bytes);
    uint8_t * block = bytes.data();
    store(block, h);
    const int32_t mid = h.has_token_minima() ? 0 : 1 << (h.bits - 1);
    for (size_t i = 0; i < sealed.scale.size(); ++i) {
        store(block + map.scales + 2 * i, f32_to_f16(sealed.scale[i]));
        if (h.has_token_minima()) {
            store(block + map.minima + 2 * i, f32_to_f16(sealed.minimum[i]));
        }
        if (h.has_centres) {
            store(block + map.centres + i, static_cast<int8_t>(mid - sealed.zero[i]));
        }
    }
    for (int32_t token = 0; token < h.n_tokens; ++token) {
        for (int32_t channel = 0; channel < h.head_dim; ++channel) {
            const int32_t code = sealed.codes[static_cast<size_t>(token) * h.head_dim + static_cast<size_t>(channel)];
            set_block_code(block, token, channel, h.has_centres ? code : code + mid);
        }
    }
    write_outliers(h, map, sealed, block);
    return bytes;
}

sealed_chunk read_block(const uint8_t * block) {
    const kv_block_header h = header_of(block);
    if (h.has_classes()) {
        return read_classes(block, h);
    }
    if (h.has_channels()) {
        return read_channels(block, h);
    }
    if (h.has_codebook()) {
        return read_kvquant_block(block);
    }
    const kv_block_map map = kv_map(h);
    const int32_t mid = h.has_token_minima() ? 0 : 1 << (h.bits - 1);
    sealed_chunk sealed;
    sealed.n_tokens = h.n_tokens;
    sealed.head_dim = h.head_dim;
    sealed.bits = h.bits;
    sealed.per_channel = h.side == kv_side::key && !h.has_tokens();
    sealed.group = h.has_groups() ? 1 : h.group;
    sealed.channel_group = h.has_groups() ? h.group : 0;
    for (int32_t i = 0; i < map.n_scales; ++i) {
        sealed.scale.push_back(f16_to_f32(load<uint16_t>(block + map.scales + 2 * static_cast<size_t>(i))));
        if (h.has_token_minima()) {
            sealed.minimum.push_back(f16_to_f32(load<uint16_t>(block + map.minima + 2 * static_cast<size_t>(i))));
        }
        if (h.has_centres) {
            sealed.zero.push_back(static_cast<int16_t>(mid - load<int8_t>(block + map.centres + i)));
        }
    }
    for (int32_t token = 0; token < h.n_tokens; ++token) {
        for (int32_t channel = 0; channel < h.head_dim; ++channel) {
            sealed.codes.push_back(static_cast<int16_t>(block_code(block, token, channel) - (h.has_centres ? 0 : mid)));
        }
    }
    for (int32_t i = 0; i < map.n_outlying; ++i) {
        const auto [token, channel] = outlier_place(block, h, map, i);
        const float delta = f16_to_f32(load<uint16_t>(block + map.outliers + 2 * static_cast<size_t>(i)));
        sealed.outlier_index.push_back(token * h.head_dim + channel);
        sealed.outlier_value.push_back(level_of(block, h, map, token, channel) + delta);
    }
    return sealed;
}

void unpack_rows(const uint8_t * block, int32_t first, int32_t n, float * to) {
    const kv_block_header h = header_of(block);
    LIVEKV_ASSERT(h.has_classes() || h.has_channels() || h.has_tokens());
    const kv_block_map map = kv_map(h);
    const size_t d = h.head_dim;
    const auto number = [&](size_t section, size_t i) { return f16_to_f32(load<uint16_t>(block + section + 2 * i)); };
    if (h.has_tokens()) {
        for (int32_t t = 0; t < n; ++t) {
            const float scale = number(map.scales, static_cast<size_t>(first + t));
            const float minimum = number(map.minima, static_cast<size_t>(first + t));
            for (size_t c = 0; c < d; ++c) {
                const kv_place at = kv_place_of(h, first + t, static_cast<int32_t>(c));
                const uint8_t * const brick = block + map.codes + at.brick * static_cast<size_t>(map.brick_bytes);
                to[static_cast<size_t>(t) * d + c] =
                    static_cast<float>(get_code(brick, h.bits, at.code)) * scale + minimum;
            }
        }
        return;
    }
    const uint8_t * quad = block + map.codes;  // of four channels, the brick of the first 16 tokens
    for (size_t at = 0; at < d; ++at) {
        const int32_t width = block[map.widths + at / 4];
        const size_t c = h.has_classes() ? load<uint16_t>(block + map.order + 2 * at) : at;
        const int32_t middle = h.has_classes() ? 0 : 1 << (width - 1);
        for (int32_t t = 0; t < n; ++t) {
            const int32_t token = first + t;
            const uint8_t * const brick = quad + static_cast<size_t>(token / 16) * 8 * h.width_sum;
            const int32_t place = token % 16 * 4 + static_cast<int32_t>(at % 4);
            const size_t grid = (h.has_classes() ? static_cast<size_t>(token / h.group) * d : 0) + at;
            const float minimum = h.has_classes() ? number(map.minima, grid) : 0.0f;
            float & x = to[static_cast<size_t>(t) * d + c];
            if (h.has_channels() && width == 16) {
                x = f16_to_f32(load<uint16_t>(brick + 2 * static_cast<size_t>(place)));
            } else {
                const int32_t code = width > 0 ? get_code(brick, width, place) - middle : 0;
                x = static_cast<float>(code) * number(map.scales, grid) + minimum;
            }
        }
        quad += at % 4 == 3 ? 8 * width : 0;
    }
}

std::vector<float> unpack_block(const uint8_t * block) {
    if (header_of(block).has_levels()) {
        return unpack_levels(block);
    }
    return reconstruct(read_block(block));
}

}  // namespace livekv
