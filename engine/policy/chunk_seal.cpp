#include "policy/chunk_seal.h"

#include <algorithm>

#include "kv/kv_pack.h"

namespace livekv {

// Sinks are not in the block; the rest is compared with what it stands for now.
void note_error(const cpu_kernels & kernels, const chunk_rows & rows, const uint8_t * block, int64_t n_saturated,
                kv_error_sums * error) {
    if (!error) {
        return;
    }
    const std::vector<float> exact = rows.to_f32(kernels);
    const std::vector<float> stored = unpack_block(block);
    for (size_t i = static_cast<size_t>(rows.n_sinks * rows.head_dim); i < exact.size(); ++i) {
        const double x = exact[i];
        error->signal += x * x;
        error->noise += (x - stored[i]) * (x - stored[i]);
    }
    error->n_saturated += n_saturated;
}

void seal_chunk_keys(const chunk_plan & plan, const cpu_kernels & kernels, const chunk_rows & rows,
                     std::span<const float> before, std::span<float> after, const query_squares & queries,
                     std::span<const float> query_means, uint8_t * block, std::span<const late_keys> late,
                     kv_error_sums * error) {
    chunk_sealer sealer(plan.method, kernels);
    key_statistics statistics(plan.method, plan.head_dim);
    const size_t n_range = plan.range_floats();
    if (!before.empty() && n_range > 0) {
        statistics.set_state(before.first(n_range));
    }
    sealer.split_keys(rows);
    statistics.update(sealer.high(), sealer.low());
    if (!after.empty() && n_range > 0) {
        const std::vector<float> state = statistics.state();
        std::copy(state.begin(), state.end(), after.begin());
    }
    if (plan.reads_queries()) {
        queries.root(after.subspan(n_range));
    }
    const std::vector<float> q2 = plan.reads_queries() ? queries.mean() : std::vector<float>();
    const auto seal = [&](uint8_t * to) {
        plan.reads_queries() ? sealer.seal_keys(statistics, {q2, query_means}, to) : sealer.seal_keys(statistics, to);
    };
    if (block) {
        seal(block);
        note_error(kernels, rows, block, sealer.n_saturated(), error);
    }
    for (const late_keys & keys : late) {
        sealer.split_keys(keys.rows);
        seal(keys.block);
        note_error(kernels, keys.rows, keys.block, sealer.n_saturated(), error);
    }
}

void seal_chunk_values(const chunk_plan & plan, const cpu_kernels & kernels, const chunk_rows & rows, uint8_t * block,
                       kv_error_sums * error) {
    chunk_sealer sealer(plan.method, kernels);
    sealer.seal_values(rows, block);
    note_error(kernels, rows, block, sealer.n_saturated(), error);
}

}  // namespace livekv
