#include "kv/kv_check.h"

#include <cstring>
#include <vector>

#include "kv/level_block.h"

namespace livekv {

namespace {

bool all_finite(const uint8_t * f16, size_t n) {
    constexpr uint16_t exponent = 0x7c00;
    for (size_t i = 0; i < n; ++i) {
        uint16_t bits;
        std::memcpy(&bits, f16 + 2 * i, sizeof(bits));
        if ((bits & exponent) == exponent) {
            return false;
        }
    }
    return true;
}

// Places within a tile ascend, so a tile never has more of them than values, and lie inside it.
bool key_places_fit(const uint8_t * block, const kv_block_header & h, const kv_block_map & map) {
    const auto before_tile = [&](int32_t tile) {
        uint32_t n;
        std::memcpy(&n, block + map.tiles + 4 * static_cast<size_t>(tile), sizeof(n));
        return n;
    };
    if (before_tile(0) != 0 || before_tile(map.n_tiles) != static_cast<uint32_t>(map.n_outlying)) {
        return false;
    }
    for (int32_t tile = 0; tile < map.n_tiles; ++tile) {
        const uint32_t end = before_tile(tile + 1);
        if (end < before_tile(tile) || end > static_cast<uint32_t>(map.n_outlying)) {
            return false;
        }
        int32_t last = -1;
        for (uint32_t i = before_tile(tile); i < end; ++i) {
            uint16_t place;
            std::memcpy(&place, block + map.index + 2 * static_cast<size_t>(i), sizeof(place));
            if (place <= last || (place & 0x7ff) >= h.head_dim || tile * kv_tile_tokens + (place >> 11) >= h.n_tokens) {
                return false;
            }
            last = place;
        }
    }
    return true;
}

bool value_places_fit(const uint8_t * block, const kv_block_header & h, const kv_block_map & map) {
    const uint8_t * at = block + map.index;
    for (int32_t token = 0; token < h.n_tokens; ++token) {
        int32_t last = -1;
        for (int32_t i = 0; i < h.n_outliers; ++i, at += map.index_bytes) {
            uint16_t channel = *at;
            if (map.index_bytes == 2) {
                std::memcpy(&channel, at, sizeof(channel));
            }
            if (channel <= last || channel >= h.head_dim) {
                return false;
            }
            last = channel;
        }
    }
    return true;
}

// The order is one of all channels, and widths are ones there are, never rising, with the sum that gave the block its
// size.
bool classes_fit(const uint8_t * block, const kv_block_header & h, const kv_block_map & map) {
    std::vector<bool> seen(h.head_dim);
    for (size_t i = 0; i < h.head_dim; ++i) {
        uint16_t channel;
        std::memcpy(&channel, block + map.order + 2 * i, sizeof(channel));
        if (channel >= h.head_dim || seen[channel]) {
            return false;
        }
        seen[channel] = true;
    }
    int32_t sum = 0;
    int32_t before = 8;
    for (size_t i = 0; i < h.head_dim / 4; ++i) {
        const int32_t width = block[map.widths + i];
        if (width > before || width == 7 || width == 1) {
            return false;
        }
        before = width;
        sum += width;
    }
    return sum == h.width_sum;
}

// Widths are ones there are, with the sum that gave the block its size, and entries kept as they are numbers.
bool channels_fit(const uint8_t * block, const kv_block_header & h, const kv_block_map & map) {
    const auto known = [](int32_t w) { return w == 2 || w == 3 || w == 4 || w == 5 || w == 8 || w == 16; };
    const uint8_t * const widths = block + map.widths;
    int32_t sum = 0;
    for (int32_t i = 0; i < h.head_dim / 4; ++i) {
        if (!known(widths[i])) {
            return false;
        }
        sum += widths[i];
    }
    if (sum != h.width_sum) {
        return false;
    }
    const uint8_t * brick = block + map.codes;
    for (int32_t sixteen = 0; sixteen < kv_ceil_div(h.n_tokens, 16); ++sixteen) {
        for (int32_t i = 0; i < h.head_dim / 4; brick += 8 * widths[i], ++i) {
            if (widths[i] == 16 && !all_finite(brick, 64)) {
                return false;
            }
        }
    }
    return true;
}

}  // namespace

std::string problem_of_block(const uint8_t * block, const kv_block_header & expected) {
    if (std::memcmp(block, &expected, sizeof(expected)) != 0) {
        return "a block's header is not what the options ask for";
    }
    if (expected.has_levels()) {
        return problem_of_levels(block, expected);
    }
    const kv_block_map map = kv_map(expected);
    if (!all_finite(block + map.scales, static_cast<size_t>(map.n_scales)) ||
        !all_finite(block + map.outliers, static_cast<size_t>(map.n_outlying))) {
        return "a scale or outlier is not a number";
    }
    if ((expected.has_classes() || expected.has_token_minima()) &&
        !all_finite(block + map.minima, static_cast<size_t>(map.n_scales))) {
        return "a minimum is not a number";
    }
    if (expected.has_classes()) {
        return classes_fit(block, expected, map) ? "" : "the order or the widths of its channels are impossible";
    }
    if (expected.has_channels()) {
        return channels_fit(block, expected, map) ? "" : "the widths of its channels are impossible";
    }
    const bool fit =
        expected.n_outliers == 0 ||
        (expected.side == kv_side::key ? key_places_fit(block, expected, map) : value_places_fit(block, expected, map));
    return fit ? "" : "an outlier's place is outside its block";
}

std::string problem_of_rows(const uint16_t * rows, size_t n) {
    return all_finite(reinterpret_cast<const uint8_t *>(rows), n) ? "" : "a key or value is not a number";
}

}  // namespace livekv
