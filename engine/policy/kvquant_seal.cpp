#include "policy/kvquant_seal.h"

#include <algorithm>

#include "kernels/seal.h"
#include "kv/kvquant_block.h"
#include "policy/chunk_seal.h"

namespace livekv {

namespace {

// Of one kv head: keys' thresholds are the calibration's, values' those of the chunk's tokens.
std::span<const kvquant_range> ranges_of(const kv_calibration::layer & layer, kv_side side, int64_t head,
                                         int64_t head_dim, std::span<const kvquant_range> of_tokens) {
    const auto d = static_cast<size_t>(head_dim);
    return side == kv_side::key ? std::span(layer.keys).subspan(static_cast<size_t>(head) * d, d) : of_tokens;
}

}  // namespace

std::shared_ptr<const kv_calibration> calibration_for(const kv_options & options, const kv_shape & shape) {
    const std::string & path = options.calibration;
    auto calibration = std::make_shared<kv_calibration>(read_kv_calibration(path));
    if (shape.model) {
        require_calibrated(path, *calibration, shape.model());
    }
    const bool fits = std::ranges::equal(calibration->layers, shape.layers, [](const auto & a, const auto & b) {
        return a.n_head_kv == b.n_head_kv && a.head_dim == b.head_dim;
    });
    if (!fits) {
        fail("'", path, "': a calibration of another model: its layers have other shapes");
    }
    if (calibration->bits != options.bits.k) {
        throw kv_option_error("kv_bits", std::to_string(options.bits.k) + ", but '" + path + "' is a calibration for " +
                                             std::to_string(calibration->bits) + " bits");
    }
    return calibration;
}

kv_chunk_side seal_kvquant_chunk(const chunk_plan & plan, kv_side side, const cpu_kernels & kernels,
                                 const uint16_t * rows, int64_t n_tokens, int64_t n_sinks,
                                 std::span<kv_error_sums> errors) {
    const kv_calibration::layer & layer = plan.kvquant->of_layer();
    const std::vector<float> & codebook = side == kv_side::key ? layer.k_codebook : layer.v_codebook;
    const auto head_size = static_cast<size_t>(n_tokens * plan.head_dim);
    const auto rows_of = [&](int64_t head, int64_t n_apart) {
        return chunk_rows{rows + head * plan.head_dim, plan.row(), n_tokens, plan.head_dim, n_apart};
    };
    std::vector<float> all;  // [n_head_kv, n_tokens, head_dim]
    for (int64_t head = 0; head < plan.n_head_kv; ++head) {
        const std::vector<float> x = rows_of(head, 0).to_f32(kernels);
        all.insert(all.end(), x.begin(), x.end());
    }
    std::vector<kvquant_range> of_tokens;
    if (side == kv_side::value) {
        of_tokens = kvquant_token_ranges(all, plan.n_head_kv, plan.head_dim);
    }
    std::vector<kvquant_tokens> heads;
    int64_t room = 0;
    for (int64_t head = 0; head < plan.n_head_kv; ++head) {
        const auto x = std::span<const float>(all).subspan(static_cast<size_t>(head) * head_size, head_size);
        heads.push_back(kvquant_quantize(x, plan.head_dim, ranges_of(layer, side, head, plan.head_dim, of_tokens),
                                         side == kv_side::key, codebook, n_sinks));
        room = std::max(room, kvquant_outlying(heads.back(), plan.head_dim, n_sinks));
    }
    kv_chunk_side out;
    out.header = kv_codebook_header(side, static_cast<int32_t>(n_tokens), static_cast<int32_t>(plan.head_dim),
                                    plan.bits(side), static_cast<uint32_t>(room));
    const size_t block_bytes = kv_map(*out.header).bytes;
    out.bytes = std::make_shared<page>(host_memory(), block_bytes * static_cast<size_t>(plan.n_head_kv));
    for (int64_t head = 0; head < plan.n_head_kv; ++head) {
        const auto x = std::span<const float>(all).subspan(static_cast<size_t>(head) * head_size, head_size);
        uint8_t * const block = out.bytes->data() + static_cast<size_t>(head) * block_bytes;
        std::ranges::copy(kvquant_block(*out.header, x, heads[static_cast<size_t>(head)],
                                        ranges_of(layer, side, head, plan.head_dim, of_tokens), codebook, n_sinks),
                          block);
        note_error(kernels, rows_of(head, n_sinks), block, 0,
                   errors.empty() ? nullptr : &errors[static_cast<size_t>(head)]);
    }
    return out;
}

}  // namespace livekv
