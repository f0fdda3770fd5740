#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "store/kv_layer.h"

namespace livekv {

// One side of a layer whose scales follow running maxima.
struct kv_stream_side {
    double mean = 0.0;  // of the maxima after the newest chunk
    double largest = 0.0;
    int64_t n_flagged = 0;  // channels, or runs of them, of all chunks
    int64_t n_units = 0;    // of these, all
    int64_t code_bits = 0;  // of the entries in chunks, as their codes have them
    int64_t n_entries = 0;
};

struct kv_stream_layer {
    kv_stream_side k;
    kv_stream_side v;
    int64_t n_updates = 0;  // chunks that moved the maxima
};

// A prompt's tokens in chunks of a layer of policy guided.
struct kv_guided_layer {
    int64_t n_read = 0;    // by the sequence
    int64_t n_tokens = 0;  // that came in
    int64_t n_kept = 0;
    int64_t n_high = 0;  // of these, by what their score called for
    int64_t n_medium = 0;
    double code_bits = 0.0;  // of a number, summed over the kept tokens
    double score_mean = 0.0;
    double score_std = 0.0;
    double score_min = 0.0;
    double score_max = 0.0;
    double budget_use = 0.0;  // what is kept beside what the layer may keep, in tokens or, by option, 8 bits
};

// A prompt of policy fastkv that was read.
struct kv_fastkv_prompt {
    int64_t n_tokens = 0;
    int64_t n_going_on = 0;    // to the later layers
    int64_t n_kept = 0;        // by each kv head of a layer up to the one that chose
    int64_t n_kept_later = 0;  // of a later one
    size_t peak_bytes = 0;     // of the cache while it was read, what waits for the later layers included
};

// What policy finch has made of a context so far.
struct kv_finch_context {
    int64_t n_tokens = 0;    // read
    int64_t n_kept = 0;      // of these, in each layer
    int64_t n_question = 0;  // tokens of the question behind each chunk
    int64_t factor = 0;      // of so many tokens one is kept
    size_t peak_bytes = 0;   // of the cache while a chunk was condensed

    bool operator==(const kv_finch_context &) const = default;
};

// Where a cache's bytes are, and what sealing did. Parts sum up to all of them.
struct kv_report {
    struct parts {
        size_t codes = 0;
        size_t scales = 0;  // with zero points and block headers
        size_t outliers = 0;
        size_t sinks = 0;
        size_t warm_up = 0;  // keys and values in f16 chunks: warm-up, or unsealed generated text
        size_t bypass = 0;   // layers kept at higher precision, all of theirs
        size_t tail = 0;     // raw, and of a prompt that is judged as a whole what waits for its end
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

    std::vector<kv_stream_layer> streams;    // [n_layer] of policy kvstream, else empty
    std::vector<kv_guided_layer> guided;     // [n_layer] of policy guided, else empty
    size_t guided_peak_bytes = 0;            // of the cache while its prompt was read, where the guide is at the end
    std::optional<kv_fastkv_prompt> fastkv;  // of policy fastkv, once the prompt is complete
    std::optional<kv_finch_context> finch;   // of policy finch, once there is a context
};

// Streams in the numbers that the published system reports: visit(its name, number), none as long as there is no chunk.
template <typename Visit>
void visit_numbers(std::span<const kv_stream_layer> streams, const Visit & visit) {
    kv_stream_side k;
    kv_stream_side v;
    for (const kv_stream_layer & layer : streams) {
        for (const auto & [to, from] : {std::pair(&k, &layer.k), std::pair(&v, &layer.v)}) {
            to->n_flagged += from->n_flagged;
            to->n_units += from->n_units;
            to->code_bits += from->code_bits;
            to->n_entries += from->n_entries;
        }
    }
    if (k.n_entries == 0 || v.n_entries == 0) {
        return;
    }
    const double k_bits = static_cast<double>(k.code_bits) / static_cast<double>(k.n_entries);
    const double v_bits = static_cast<double>(v.code_bits) / static_cast<double>(v.n_entries);
    const double n_flagged = static_cast<double>(k.n_flagged + v.n_flagged);
    const double n_units = static_cast<double>(k.n_units + v.n_units);
    visit("avg_key_bits", k_bits);
    visit("avg_value_bits", v_bits);
    visit("compression_ratio_key", 16.0 / k_bits);
    visit("compression_ratio_value", 16.0 / v_bits);
    visit("total_outliers", n_flagged);
    visit("total_channels", n_units);
    visit("outlier_ratio", n_flagged / n_units);
    visit("overall_memory_savings", 1.0 - (k_bits + v_bits) / 32.0);
}

// The same of one layer.
template <typename Visit>
void visit_numbers(const kv_stream_layer & layer, const Visit & visit) {
    const auto share = [](const kv_stream_side & s) {
        return s.n_units > 0 ? static_cast<double>(s.n_flagged) / static_cast<double>(s.n_units) : 0.0;
    };
    visit("updates", static_cast<double>(layer.n_updates));
    visit("key_absmax_mean", layer.k.mean);
    visit("key_absmax_max", layer.k.largest);
    visit("key_outlier_ratio", share(layer.k));
    visit("value_absmax_mean", layer.v.mean);
    visit("value_absmax_max", layer.v.largest);
    visit("value_outlier_ratio", share(layer.v));
}

// Layers of guided in the numbers that the published system reports, as above. Sizes are of codes beside 16 bits;
// shares, like these, are of all of the prompt's tokens in all layers: what an earlier layer let go is dropped.
template <typename Visit>
void visit_numbers(std::span<const kv_guided_layer> layers, const Visit & visit) {
    kv_guided_layer all;
    for (const kv_guided_layer & layer : layers) {
        all.n_read += layer.n_read;
        all.n_kept += layer.n_kept;
        all.n_high += layer.n_high;
        all.n_medium += layer.n_medium;
        all.code_bits += layer.code_bits;
    }
    if (all.n_read == 0) {
        return;
    }
    const double n = static_cast<double>(all.n_read);
    visit("compression_ratio", all.code_bits / (16.0 * n));
    visit("overall_memory_savings", 1.0 - all.code_bits / (16.0 * n));
    visit("high_ratio", static_cast<double>(all.n_high) / n);
    visit("medium_ratio", static_cast<double>(all.n_medium) / n);
    visit("low_ratio", static_cast<double>(all.n_kept - all.n_high - all.n_medium) / n);
    visit("dropped_ratio", static_cast<double>(all.n_read - all.n_kept) / n);
}

// The same of one layer.
template <typename Visit>
void visit_numbers(const kv_guided_layer & layer, const Visit & visit) {
    visit("tokens_in", static_cast<double>(layer.n_tokens));
    visit("tokens_kept", static_cast<double>(layer.n_kept));
    visit("bits_per_kept", layer.n_kept > 0 ? layer.code_bits / static_cast<double>(layer.n_kept) : 0.0);
    visit("score_mean", layer.score_mean);
    visit("score_std", layer.score_std);
    visit("score_min", layer.score_min);
    visit("score_max", layer.score_max);
    visit("budget_use", layer.budget_use);
}

// The prompt in numbers, as above.
template <typename Visit>
void visit_numbers(const kv_fastkv_prompt & prompt, const Visit & visit) {
    visit("prompt_tokens", static_cast<double>(prompt.n_tokens));
    visit("tokens_going_on", static_cast<double>(prompt.n_going_on));
    visit("tokens_kept", static_cast<double>(prompt.n_kept));
    visit("tokens_kept_later", static_cast<double>(prompt.n_kept_later));
    visit("peak_bytes", static_cast<double>(prompt.peak_bytes));
}

template <typename Visit>
void visit_numbers(const kv_finch_context & context, const Visit & visit) {
    visit("context_tokens", static_cast<double>(context.n_tokens));
    visit("tokens_kept", static_cast<double>(context.n_kept));
    visit("question_tokens", static_cast<double>(context.n_question));
    visit("factor", static_cast<double>(context.factor));
    visit("peak_bytes", static_cast<double>(context.peak_bytes));
}

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
