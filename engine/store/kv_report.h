#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "store/kv_layer.h"

namespace livekv {

// Where a cache's bytes are, and what sealing did. Parts sum up to all of them.
struct kv_report {
    struct parts {
        size_t codes = 0;
        size_t scales = 0;  // with zero points and block headers
        size_t outliers = 0;
        size_t sinks = 0;
        size_t warm_up = 0;  // keys and values in f16 chunks: warm-up, or unsealed generated text
        size_t bypass = 0;   // layers kept at higher precision, all of theirs
        size_t tail = 0;     // raw
        size_t statistics = 0;
        size_t padding = 0;

        size_t total() const;
    };
    parts bytes;
    size_t workspace = 0;  // beside them, whatever the context: a chunk's raw rows on their way, attention's tiles

    int64_t n_sealed = 0;      // values in blocks
    int64_t n_outliers = 0;    // of these, stored apart
    int64_t n_given_back = 0;  // values that were held once, behind their layer's window now
    double seal_seconds = 0.0;

    // Signal to noise of what was sealed, and what lay beyond its range; measured on request
    // (kv_options::measure_error). None where there is no ratio: nothing was sealed, or without any error.
    struct layer_error {
        std::optional<double> k_snr_db;
        std::optional<double> v_snr_db;
    };
    bool has_error = false;
    int64_t n_saturated = 0;
    std::vector<layer_error> layers;  // [n_layer] when measured
};

// The parts, each once and in order: f(name, member).
template <typename F>
void for_each_part(F && f) {
    using p = kv_report::parts;
    f("codes", &p::codes);
    f("scales", &p::scales);
    f("outliers", &p::outliers);
    f("sinks", &p::sinks);
    f("warm_up", &p::warm_up);
    f("bypass", &p::bypass);
    f("tail", &p::tail);
    f("statistics", &p::statistics);
    f("padding", &p::padding);
}

// The parts and what they sum up to: visit(name, bytes).
template <typename Visit>
void visit_numbers(const kv_report::parts & parts, const Visit & visit) {
    for_each_part([&](const char * name, auto part) { visit(name, parts.*part); });
    visit("total", parts.total());
}

// Adds what a layer holds; bypass: it counts as one kept at higher precision.
void add_layer(kv_report & report, const kv_layer & layer, bool bypass);

}  // namespace livekv
