#include "policy/kivi_seal.h"

#include "kernels/seal_kivi.h"
#include "policy/chunk_seal.h"

namespace livekv {

void seal_kivi_rows(const kv_block_header & header, const cpu_kernels & kernels, const chunk_rows & rows,
                    uint8_t * block, kv_error_sums * error) {
    seal_kivi(header, rows.to_f32(kernels), block);
    note_error(kernels, rows, block, 0, error);
}

void seal_older_values(const chunk_plan & plan, const cpu_kernels & kernels, kv_layer & layer) {
    for (size_t i = 0; i + 1 < layer.chunks.size(); ++i) {
        kv_chunk & c = layer.chunks[i];
        if (c.given_back() || c.v.sealed()) {
            continue;
        }
        kv_chunk_side sealed;
        sealed.header = plan.header(kv_side::value, c.n_stored);
        const size_t block_bytes = kv_map(*sealed.header).bytes;
        sealed.bytes = std::make_shared<page>(host_memory(), block_bytes * static_cast<size_t>(plan.n_head_kv));
        for (int64_t head = 0; head < plan.n_head_kv; ++head) {
            const chunk_rows rows{c.v.bytes->as<uint16_t>() + head * plan.head_dim, plan.row(), c.n_stored,
                                  plan.head_dim, 0};
            seal_kivi_rows(*sealed.header, kernels, rows,
                           sealed.bytes->data() + block_bytes * static_cast<size_t>(head), nullptr);
        }
        c.v = std::move(sealed);
        ++layer.n_edits;
    }
}

}  // namespace livekv
