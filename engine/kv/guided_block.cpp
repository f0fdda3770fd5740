#include "kv/guided_block.h"

#include <algorithm>
#include <cstring>

#include "error.h"
#include "kv/f16.h"
#include "kv/kv_pack.h"

namespace livekv {

kv_block_header guided_header(kv_side side, guided_method::key_axis axis, int64_t n_tokens, int64_t head_dim,
                              int32_t bits) {
    const int32_t n = static_cast<int32_t>(n_tokens);
    const int32_t d = static_cast<int32_t>(head_dim);
    if (bits == 16) {
        return kv_channel_header(side, n, d, d / 4 * bits);
    }
    if (side == kv_side::key && axis == guided_method::key_axis::channel) {
        const int32_t group = static_cast<int32_t>(kv_align(static_cast<size_t>(n), kv_tile_tokens));  // all of them
        return kv_class_header(n, d, group, d / 4 * bits);
    }
    return kv_token_header(side, n, d, bits);
}

namespace {

// Bricks of f16 numbers: the tokens as they are.
std::vector<uint8_t> exact_block(const kv_block_header & h, std::span<const float> x) {
    const kv_block_map map = kv_map(h);
    const size_t d = h.head_dim;
    std::vector<uint8_t> block(map.bytes);
    const auto store = [&](size_t at, uint16_t number) { std::memcpy(block.data() + at, &number, sizeof(number)); };
    std::memcpy(block.data(), &h, sizeof(h));
    for (size_t c = 0; c < d; ++c) {
        store(map.scales + 2 * c, f32_to_f16(1.0f));
    }
    std::fill_n(block.begin() + static_cast<std::ptrdiff_t>(map.widths), d / 4, uint8_t{16});
    for (size_t i = 0; i < x.size(); ++i) {
        const kv_place place = kv_key_place(h.head_dim, static_cast<int32_t>(i / d), static_cast<int32_t>(i % d));
        store(map.codes + 2 * (place.brick * 64 + static_cast<size_t>(place.code)), f32_to_f16_finite(x[i]));
    }
    return block;
}

}  // namespace

std::vector<uint8_t> guided_block(const kv_block_header & h, std::span<const float> x) {
    const size_t n = h.n_tokens;
    const size_t d = h.head_dim;
    LIVEKV_ASSERT(x.size() == n * d);
    if (h.has_channels()) {
        return exact_block(h, x);
    }
    sealed_chunk sealed;
    sealed.n_tokens = h.n_tokens;
    sealed.head_dim = h.head_dim;
    sealed.bits = h.bits;
    sealed.group = h.group;
    sealed.per_channel = h.has_classes();
    sealed.codes.resize(x.size());
    const int32_t bits = h.has_classes() ? h.width_sum / (h.head_dim / 4) : h.bits;
    for (size_t c = 0; h.has_classes() && c < d; ++c) {
        sealed.classes.order.push_back(static_cast<uint16_t>(c));
    }
    sealed.classes.widths.assign(sealed.classes.order.size() / 4, static_cast<uint8_t>(bits));
    const size_t n_grids = sealed.per_channel ? d : n;
    const size_t each = x.size() / n_grids;  // numbers of a grid, `stride` apart
    const size_t stride = sealed.per_channel ? d : 1;
    for (size_t i = 0; i < n_grids; ++i) {
        const size_t first = sealed.per_channel ? i : i * d;
        const guided_grid grid = guided_grid_of(x.data() + first, each, stride, bits);
        sealed.scale.push_back(grid.scale);
        sealed.minimum.push_back(grid.low);
        for (size_t k = 0; k < each; ++k) {
            sealed.codes[first + k * stride] = static_cast<int16_t>(grid.code(x[first + k * stride], bits));
        }
    }
    return pack_block(h, sealed);
}

}  // namespace livekv
