#include "kernels/products.h"

#include "kernels/weights/each_type.h"

namespace livekv {

namespace {

template <typename W>
constexpr size_t tile_bytes = W::head_bytes + W::span / part_inputs * (code_bytes(W::bits) + W::number_bytes);

template <typename W>
void pack_tile(const uint8_t * block, int32_t output, uint8_t * tile) {
    uint8_t * part = tile + W::head_bytes;
    for (int32_t p = 0; p < W::span / part_inputs; ++p, part += code_bytes(W::bits) + W::number_bytes) {
        uint8_t codes[part_inputs];
        for (int32_t i = 0; i < part_inputs; ++i) {
            codes[i] = static_cast<uint8_t>(W::code(block, part_inputs * p + i));
        }
        put_codes(part, W::bits, output, codes);
        W::put_numbers(block, output, tile, part + code_bytes(W::bits), p);
    }
}

}  // namespace

weight_format format_of(weight_type type) {
    return with_weights(type, [](auto w) {
        using W = decltype(w);
        return weight_format{W::span, W::file_bytes, tile_bytes<W>};
    });
}

size_t packed_matrix::strip_bytes() const {
    const weight_format f = format_of(type);
    return static_cast<size_t>(n_in / f.span) * f.tile_bytes;
}

void pack_strips(const packed_matrix & shape, const uint8_t * file, int64_t first, int64_t n, uint8_t * to) {
    with_weights(shape.type, [&](auto w) {
        using W = decltype(w);
        const int64_t n_tiles = shape.n_in / W::span;
        for (int64_t s = first; s < first + n; ++s) {
            for (int32_t r = 0; r < strip_outputs && 16 * s + r < shape.n_out; ++r) {
                const uint8_t * block = file + static_cast<size_t>((16 * s + r) * n_tiles) * W::file_bytes;
                uint8_t * tile = to + static_cast<size_t>(s - first) * shape.strip_bytes();
                for (int64_t t = 0; t < n_tiles; ++t, block += W::file_bytes, tile += tile_bytes<W>) {
                    pack_tile<W>(block, r, tile);
                }
            }
        }
    });
}

}  // namespace livekv
