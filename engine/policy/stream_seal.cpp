#include "policy/stream_seal.h"

#include <algorithm>

#include "kernels/seal.h"
#include "kernels/seal_stream.h"
#include "kv/f16.h"
#include "kv/kv_pack.h"

namespace livekv {

namespace {

// One kv head of a chunk.
struct stream_head {
    std::vector<float> x;  // f32 [n_tokens, head_dim]
    stream_units units;
    std::vector<uint8_t> widths;

    int32_t width_sum() const {
        int32_t sum = 0;
        for (const uint8_t width : widths) {
            sum += width;
        }
        return sum;
    }
};

void keep_sinks(const stream_method & method, const stream_rows & chunk, const stream_head & head, int64_t h,
                uint16_t * sinks) {
    const int64_t d = chunk.head_dim;
    const std::span first(head.x.data(), static_cast<size_t>(chunk.n_sinks * d));
    const streamed_chunk kept = stream_chunk(method, head.units, first, d, chunk.n_sinks);
    for (int64_t t = 0; t < chunk.n_sinks; ++t) {
        for (int64_t c = 0; c < d; ++c) {
            sinks[(t * chunk.n_head_kv + h) * d + c] =
                f32_to_f16_finite(kept.reconstruction[static_cast<size_t>(t * d + c)]);
        }
    }
}

void note_error(const stream_rows & chunk, const stream_head & head, const uint8_t * block, int64_t n_saturated,
                kv_error_sums & error) {
    const std::vector<float> stored = unpack_block(block);
    for (size_t i = static_cast<size_t>(chunk.n_sinks * chunk.head_dim); i < stored.size(); ++i) {
        const double x = head.x[i];
        error.signal += x * x;
        error.noise += (x - stored[i]) * (x - stored[i]);
    }
    error.n_saturated += n_saturated;
}

}  // namespace

kv_chunk_side seal_stream_chunk(const stream_method & method, const cpu_kernels & kernels, const stream_rows & chunk,
                                const float * before, float * after, size_t state_stride, uint16_t * sinks,
                                std::span<kv_error_sums> errors) {
    const size_t n_units = static_cast<size_t>(method.units(chunk.head_dim));
    const size_t n_heads = static_cast<size_t>(chunk.n_head_kv);
    const size_t row = n_heads * static_cast<size_t>(chunk.head_dim);
    std::vector<stream_head> heads(n_heads);
    int32_t width_sum = 0;
    for (size_t h = 0; h < n_heads; ++h) {
        stream_head & head = heads[h];
        const chunk_rows rows{chunk.rows + h * static_cast<size_t>(chunk.head_dim), row, chunk.n_tokens, chunk.head_dim,
                              0};
        head.x = rows.to_f32(kernels);
        const std::span<const float> mu =
            before ? std::span(before + h * state_stride, n_units) : std::span<const float>();
        head.units = stream_units_of(method, head.x, chunk.head_dim, mu, chunk.index);
        std::ranges::copy(head.units.mu, after + h * state_stride);
        if (chunk.n_sinks > 0) {
            keep_sinks(method, chunk, head, static_cast<int64_t>(h), sinks);
        }
        if (method.seals()) {
            head.widths = stream_widths(method, head.units, chunk.head_dim);
            width_sum = std::max(width_sum, head.width_sum());
        }
    }
    kv_chunk_side out;
    if (!method.seals()) {
        out.bytes = std::make_shared<page>(host_memory(), 2 * static_cast<size_t>(chunk.n_tokens) * row);
        std::copy_n(chunk.rows, static_cast<size_t>(chunk.n_tokens) * row, out.bytes->as<uint16_t>());
        return out;
    }
    out.header = kv_channel_header(chunk.side, static_cast<int32_t>(chunk.n_tokens),
                                   static_cast<int32_t>(chunk.head_dim), width_sum);
    const size_t block_bytes = kv_map(*out.header).bytes;
    out.bytes = std::make_shared<page>(host_memory(), n_heads * block_bytes);
    for (size_t h = 0; h < n_heads; ++h) {
        stream_head & head = heads[h];
        widen(method, width_sum, head.widths);
        uint8_t * const block = out.bytes->data() + h * block_bytes;
        const int64_t n_saturated =
            seal_stream(method, head.units, *out.header, head.widths, head.x, chunk.n_sinks, block);
        if (!errors.empty()) {
            note_error(chunk, head, block, n_saturated, errors[h]);
        }
    }
    return out;
}

}  // namespace livekv
