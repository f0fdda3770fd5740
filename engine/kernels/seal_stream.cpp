#include "kernels/seal_stream.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "error.h"
#include "kernels/pack_brick.h"
#include "kv/f16.h"
#include "unaligned.h"

namespace livekv {

namespace {

// What an entry of each channel is rounded by: [head_dim] each.
struct channel_grids {
    std::vector<float> scale;
    std::vector<float> low;  // the least code
    std::vector<float> high;
};

channel_grids grids_of(const stream_method & method, const stream_units & units, size_t d) {
    channel_grids g;
    for (size_t c = 0; c < d; ++c) {
        const size_t unit = c * units.mu.size() / d;
        const bool flagged = units.flagged[unit] != 0;
        const int32_t bits = flagged ? method.high_bits : method.bits;
        const bool kept = bits == 16;
        const float infinity = std::numeric_limits<float>::infinity();
        const float top = kept ? infinity : static_cast<float>((1 << (bits - 1)) - 1);
        g.scale.push_back(kept ? 1.0f : flagged ? units.high_scale[unit] : units.scale[unit]);
        g.low.push_back(-top - 1.0f);
        g.high.push_back(top);
    }
    return g;
}

// Codes of one token, [head_dim]; how many entries lie beyond them is returned.
int32_t round_row(const channel_grids & grids, const float * row, float * codes) {
    int32_t beyond = 0;
    for (size_t c = 0; c < grids.scale.size(); ++c) {
        const float steps = row[c] / grids.scale[c];
        const float low = grids.low[c];
        const float high = grids.high[c];
        beyond += (steps < low - 0.5f) | (steps > high + 0.5f);
        const float bounded = steps < low ? low : steps > high ? high : steps;
        codes[c] = (bounded + 12582912.0f) - 12582912.0f;  // half to even
    }
    return beyond;
}

}  // namespace

std::vector<uint8_t> stream_widths(const stream_method & method, const stream_units & units, int64_t head_dim) {
    const size_t d = static_cast<size_t>(head_dim);
    std::vector<uint8_t> widths(d / 4, static_cast<uint8_t>(method.bits));
    for (size_t c = 0; c < d; ++c) {
        if (units.flagged[c * units.flagged.size() / d]) {
            widths[c / 4] = static_cast<uint8_t>(method.high_bits);
        }
    }
    return widths;
}

void widen(const stream_method & method, int32_t width_sum, std::span<uint8_t> widths) {
    int32_t sum = 0;
    for (const uint8_t width : widths) {
        sum += width;
    }
    for (uint8_t & width : widths) {
        if (sum < width_sum && width < method.high_bits) {
            sum += method.high_bits - width;
            width = static_cast<uint8_t>(method.high_bits);
        }
    }
    LIVEKV_ASSERT(sum == width_sum);
}

int64_t seal_stream(const stream_method & method, const stream_units & units, const kv_block_header & header,
                    std::span<const uint8_t> widths, std::span<const float> chunk, int64_t n_apart, uint8_t * block) {
    const size_t d = header.head_dim;
    const size_t n = header.n_tokens;
    const kv_block_map map = kv_map(header);
    LIVEKV_ASSERT(header.has_channels() && chunk.size() == n * d && widths.size() == d / 4);
    std::memset(block, 0, map.bytes);
    store(block, header);
    const channel_grids grids = grids_of(method, units, d);
    for (size_t c = 0; c < d; ++c) {
        store(block + map.scales + 2 * c, f32_to_f16_finite(widths[c / 4] == 16 ? 1.0f : grids.scale[c]));
    }
    std::copy(widths.begin(), widths.end(), block + map.widths);
    std::vector<float> codes(16 * d);
    int64_t n_saturated = 0;
    uint8_t * brick = block + map.codes;
    for (size_t first = 0; first < n; first += 16) {
        const size_t n_here = std::min<size_t>(16, n - first);
        std::fill(codes.begin(), codes.end(), 0.0f);
        for (size_t t = 0; t < n_here; ++t) {
            if (static_cast<int64_t>(first + t) >= n_apart) {
                n_saturated += round_row(grids, chunk.data() + (first + t) * d, codes.data() + t * d);
            }
        }
        for (size_t quad = 0; quad < d / 4; brick += 8 * widths[quad], ++quad) {
            const int32_t width = widths[quad];
            uint8_t u[64] = {};
            uint16_t kept[64] = {};
            for (size_t i = 0; i < 4 * n_here; ++i) {
                const size_t c = 4 * quad + i % 4;
                const float code = codes[i / 4 * d + c];
                if (width == 16) {  // what is not flagged is kept as what its code stands for
                    const bool exact = std::isinf(grids.high[c]);
                    const float x = exact ? chunk[(first + i / 4) * d + c] : code * grids.scale[c];
                    kept[i] = static_cast<int64_t>(first + i / 4) < n_apart ? uint16_t{0} : f32_to_f16_finite(x);
                } else {
                    u[i] = static_cast<uint8_t>(static_cast<int32_t>(code) + (1 << (width - 1)));
                }
            }
            if (width == 16) {
                std::memcpy(brick, kept, sizeof(kept));
            } else {
                pack_brick(u, width, brick);
            }
        }
    }
    return n_saturated;
}

}  // namespace livekv
