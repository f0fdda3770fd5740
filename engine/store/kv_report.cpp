// What a layer's bytes are spent on, and what they are worth.

#include "store/kv_report.h"

#include <cmath>

#include "kv/kv_pack.h"
#include "kv/kvquant_block.h"
#include "kv/level_block.h"

namespace livekv {

namespace {

// Bytes of the codes of a block's tokens.
size_t code_bytes(const kv_block_header & h, const uint8_t * block) {
    size_t bits = static_cast<size_t>(h.n_tokens) * h.head_dim * h.bits;
    if (h.has_classes() || h.has_channels()) {
        bits = 4 * static_cast<size_t>(h.n_tokens) * h.width_sum;
    }
    for (int32_t i = 0; h.has_levels() && i < kv_n_levels; ++i) {
        const kv_level level = level_of_block(block, i);
        bits += static_cast<size_t>(level.n_tokens) * h.head_dim * level.bits;
    }
    return (bits + 7) / 8;
}

// Those that a block of levels has dropped, or that are sinks, are not in it.
int64_t sealed_tokens(const kv_block_header & h, const uint8_t * block) {
    int64_t n = h.has_levels() ? 0 : h.n_tokens;
    for (int32_t i = 0; h.has_levels() && i < kv_n_levels; ++i) {
        n += level_of_block(block, i).n_tokens;
    }
    return n;
}

// What is kept apart in a side's blocks; of version 7, that of the room for it.
int64_t n_outliers(const kv_layer & layer, const kv_chunk_side & side, const kv_block_map & map) {
    if (!side.header->has_codebook()) {
        return layer.n_head_kv * map.n_outlying;
    }
    int64_t n = 0;
    for (int64_t head = 0; head < layer.n_head_kv; ++head) {
        n += kvquant_outliers_of(side.bytes->data() + static_cast<size_t>(head) * map.bytes);
    }
    return n;
}

}  // namespace

size_t kv_report::parts::total() const {
    size_t sum = 0;
    for_each_part([&](const char *, auto part) { sum += this->*part; });
    return sum;
}

void add_layer(kv_report & report, const kv_layer & layer, bool bypass) {
    kv_report::parts parts;
    const size_t heads = static_cast<size_t>(layer.n_head_kv);
    for (const kv_chunk & c : layer.chunks) {
        if (c.given_back()) {
            report.n_given_back += 2 * c.n_tokens * layer.n_head_kv * layer.head_dim;
            continue;
        }
        for (const kv_chunk_side * side : {&c.k, &c.v}) {
            if (!side->sealed()) {
                parts.warm_up += side->bytes->bytes();
                continue;
            }
            const kv_block_header & h = *side->header;
            const kv_block_map m = kv_map(h);
            const bool has_tiles = h.has_codebook() || (m.n_outlying > 0 && side == &c.k);
            const size_t outliers = static_cast<size_t>(m.n_outlying) * (2 + static_cast<size_t>(m.index_bytes)) +
                                    (has_tiles ? 4 * static_cast<size_t>(m.n_tiles + 1) : 0);
            const size_t codes = code_bytes(h, side->bytes->data());
            parts.outliers += heads * outliers;
            parts.codes += heads * codes;
            parts.padding += heads * m.padding;
            parts.scales += heads * (m.bytes - outliers - codes - m.padding);
            report.n_sealed += layer.n_head_kv * sealed_tokens(h, side->bytes->data()) * layer.head_dim;
            report.n_outliers += n_outliers(layer, *side, m);
        }
        parts.statistics += c.state ? c.state->bytes() : 0;
    }
    parts.sinks += layer.sinks.bytes();
    parts.tail += layer.tail.bytes() + layer.tail_queries.bytes() + layer.tail_weights.bytes();
    if (bypass) {
        report.bytes.bypass += parts.total() - parts.tail;
        report.bytes.tail += parts.tail;
    } else {
        for_each_part([&](const char *, auto part) { report.bytes.*part += parts.*part; });
    }
    if (!layer.errors.empty()) {
        kv_report::layer_error error;
        for (const bool key : {true, false}) {
            double signal = 0.0;
            double noise = 0.0;
            for (size_t head = 0; head < heads; ++head) {
                const kv_error_sums & e = layer.errors[key ? head : heads + head];
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
