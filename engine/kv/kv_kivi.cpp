#include "kv/kv_kivi.h"

#include <algorithm>
#include <cmath>

#include "error.h"
#include "kv/kv_guided.h"
#include "kv/kv_pack.h"

namespace livekv {

kivi_tokens kivi_quantize(kv_side side, int32_t bits, std::span<const float> x, int64_t head_dim) {
    const size_t d = static_cast<size_t>(head_dim);
    const size_t n = x.size() / d;
    LIVEKV_ASSERT(x.size() == n * d);
    const size_t group = static_cast<size_t>(kivi_group);
    const bool key = side == kv_side::key;
    const size_t n_lines = key ? d : n;  // along which groups lie
    const size_t length = key ? n : d;
    const size_t stride = key ? d : 1;
    const size_t n_groups = (length + group - 1) / group;
    kivi_tokens out;
    out.codes.resize(x.size());
    out.reconstruction.resize(x.size());
    out.scale.resize(n_groups * n_lines);
    out.low.resize(n_groups * n_lines);
    for (size_t line = 0; line < n_lines; ++line) {
        for (size_t g = 0; g < n_groups; ++g) {
            const size_t first = (key ? line : line * d) + g * group * stride;
            const size_t n_here = std::min(group, length - g * group);
            const guided_grid grid = guided_grid_of(x.data() + first, n_here, stride, bits);
            const size_t at = key ? g * d + line : line * n_groups + g;
            out.scale[at] = grid.scale;
            out.low[at] = grid.low;
            for (size_t i = first; i < first + n_here * stride; i += stride) {
                const int32_t code = grid.code(x[i], bits);
                out.codes[i] = static_cast<uint8_t>(code);
                out.reconstruction[i] = grid.level(code);
            }
        }
    }
    return out;
}

kv_block_header kivi_header(kv_side side, int64_t n_tokens, int64_t head_dim, int32_t bits) {
    const int32_t n = static_cast<int32_t>(n_tokens);
    const int32_t d = static_cast<int32_t>(head_dim);
    const int32_t group = static_cast<int32_t>(kivi_group);
    return side == kv_side::key ? kv_class_header(n, d, group, d / 4 * bits) : kv_group_header(n, d, bits);
}

std::vector<uint8_t> kivi_block(const kv_block_header & h, std::span<const float> x) {
    const bool key = h.has_classes();
    const size_t d = h.head_dim;
    const int32_t bits = key ? h.width_sum / (h.head_dim / 4) : h.bits;
    const kivi_tokens tokens = kivi_quantize(h.side, bits, x, h.head_dim);
    sealed_chunk sealed;
    sealed.n_tokens = h.n_tokens;
    sealed.head_dim = h.head_dim;
    sealed.bits = h.bits;
    sealed.codes.assign(tokens.codes.begin(), tokens.codes.end());
    for (size_t c = 0; key && c < d; ++c) {
        sealed.classes.order.push_back(static_cast<uint16_t>(c));
    }
    sealed.classes.widths.assign(sealed.classes.order.size() / 4, static_cast<uint8_t>(bits));
    sealed.scale = tokens.scale;
    sealed.minimum = tokens.low;
    const size_t n = h.n_tokens;
    const size_t n_groups = key ? 0 : tokens.scale.size() / n;
    for (size_t i = 0; i < n_groups * n; ++i) {  // a block has a group's tokens side by side
        sealed.scale[i] = tokens.scale[i % n * n_groups + i / n];
        sealed.minimum[i] = tokens.low[i % n * n_groups + i / n];
    }
    return pack_block(h, sealed);
}

}  // namespace livekv
