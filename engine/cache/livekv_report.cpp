// What a livekv_layer's bytes are spent on, and what they are worth.

#include <cmath>

#include "cache/livekv_layer.h"
#include "kv/kv_pack.h"

namespace livekv {

size_t livekv_layer::bytes() const {
    kv_report report;
    add_to(report);
    return report.bytes.total();
}

void livekv_layer::add_to(kv_report & report) const {
    kv_report::parts parts;
    for (const chunk & c : chunks_) {
        for (const bool key : {true, false}) {
            const kv_page & page = key ? *c.k : *c.v;
            if (!(key ? c.k_sealed : c.v_sealed)) {
                (plan_.tail_chunks > 0 && !c.v_sealed ? parts.tail : parts.warm_up) += page.bytes();
                continue;
            }
            const kv_block_map m =
                kv_map(block_header(plan_.method, key ? kv_side::key : kv_side::value, c.n_stored, plan_.head_dim));
            const size_t heads = static_cast<size_t>(plan_.n_head_kv);
            const size_t outliers = static_cast<size_t>(m.n_outlying) * (2 + static_cast<size_t>(m.index_bytes)) +
                                    (m.n_outlying > 0 && key ? 4 * static_cast<size_t>(m.n_tiles + 1) : 0);
            const size_t codes = (static_cast<size_t>(c.n_stored * plan_.head_dim) *
                                      static_cast<size_t>(key ? plan_.method.k_bits : plan_.method.v_bits) +
                                  7) /
                                 8;
            parts.outliers += heads * outliers;
            parts.codes += heads * codes;
            parts.padding += heads * m.padding;
            parts.scales += heads * (m.bytes - outliers - codes - m.padding);
            report.n_sealed += plan_.n_head_kv * c.n_stored * plan_.head_dim;
            report.n_outliers += plan_.n_head_kv * m.n_outlying;
        }
    }
    parts.sinks += sinks_.bytes();
    parts.tail += tail_.bytes();
    parts.statistics += statistics_.size() * 3 * static_cast<size_t>(plan_.head_dim) * sizeof(float);
    if (plan_.bypass) {
        report.bytes.bypass += parts.total() - parts.tail;
        report.bytes.tail += parts.tail;
    } else {
        report.bytes.codes += parts.codes;
        report.bytes.scales += parts.scales;
        report.bytes.outliers += parts.outliers;
        report.bytes.sinks += parts.sinks;
        report.bytes.warm_up += parts.warm_up;
        report.bytes.tail += parts.tail;
        report.bytes.statistics += parts.statistics;
        report.bytes.padding += parts.padding;
    }
    if (plan_.measure_error) {
        kv_report::layer_error error;
        for (const bool key : {true, false}) {
            double signal = 0.0;
            double noise = 0.0;
            for (int64_t head = 0; head < plan_.n_head_kv; ++head) {
                const error_sums & e = errors_[static_cast<size_t>(key ? head : plan_.n_head_kv + head)];
                signal += e.signal;
                noise += e.noise;
                report.n_saturated += e.n_saturated;
            }
            if (signal > 0.0 && noise > 0.0) {
                (key ? error.k_snr_db : error.v_snr_db) = 10.0 * std::log10(signal / noise);
            }
        }
        report.layers.push_back(error);
    }
}

}  // namespace livekv
