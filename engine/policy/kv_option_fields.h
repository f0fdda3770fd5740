#pragma once

// The cache's options, said once: name, member, what it may be, help. The command line, files, Python and check() are
// made from these lines.

#include <array>
#include <cstdint>

#include "policy/kv_options.h"

namespace livekv {

// What a field may be.
struct kv_whole {  // min to max, a multiple of `multiple`; or a word that stands for word_value
    int64_t min;
    int64_t max;
    int64_t multiple = 1;
    const char * word = nullptr;
    int64_t word_value = 0;
};
struct kv_real {
    double min;
    double max;
    const char * word = nullptr;
    double word_value = 0.0;
};
struct kv_on_off {};
struct kv_one_of {};     // enumerators, by the names below
struct kv_widths {};     // kv_bits
struct kv_width {};      // one of kv_stream_widths
struct kv_levels {};     // three of these, or two and 0
struct kv_file_name {};  // a file; empty: none. Is in no file of ours
struct kv_switch {       // false, and true where a text names it; shapes nothing, so files do not carry it
    const char * name;   // in texts
};

constexpr std::array<int64_t, 5> kv_code_widths = {2, 3, 4, 5, 8};
constexpr std::array<int64_t, 6> kv_stream_widths = {2, 3, 4, 5, 8, 16};

// Names of enumerators, in their order.
inline std::array<const char *, 4> names_of(kv_method::scale) {
    return {"ema_absmax", "ema_minmax", "ema_clipped", "range"};
}
inline std::array<const char *, 4> names_of(kv_rotate) {
    return {"none", "k", "v", "kv"};
}
inline std::array<const char *, 3> names_of(kv_key_alloc) {
    return {"off", "block", "auto"};
}
inline std::array<const char *, 3> names_of(kv_key_feedback) {
    return {"off", "on", "auto"};
}
inline std::array<const char *, 3> names_of(stream_method::range) {
    return {"cover", "ema", "own"};
}
inline std::array<const char *, 2> names_of(kv_bypass) {
    return {"q8_0", "f16"};
}
inline std::array<const char *, 2> names_of(guided_method::norm) {
    return {"minmax", "zscore"};
}
inline std::array<const char *, 2> names_of(guided_method::guide_at) {
    return {"first", "last"};
}
inline std::array<const char *, 3> names_of(guided_method::propagation) {
    return {"off", "cache", "layers"};
}
inline std::array<const char *, 2> names_of(guided_method::budget_of) {
    return {"tokens", "bits"};
}
inline std::array<const char *, 2> names_of(guided_method::key_axis) {
    return {"channel", "token"};
}

inline std::array<const char *, 2> names_of(fastkv_method::pooling) {
    return {"max", "avg"};
}
inline std::array<const char *, 2> names_of(kv_store_as) {
    return {"f16", "livekv"};
}

// Calls f(name, member of kv_options, what it may be, help) for each option but the policy, in the order help shows
// them. name: the field's, in Python too; what texts call it: kv_option_name.
template <typename F>
void for_each_kv_option(F && f) {
    using o = kv_options;
    f("chunk_size", &o::chunk_size, kv_whole{32, 4096, 32},
      "prompt tokens processed together, and sealed; a multiple of 32");
    f("kv_bits", &o::bits, kv_widths{}, "bits of a code: 2, 3, 4, 5 or 8; keys and values, or keys,values");
    f("scale_method", &o::scale_method, kv_one_of{},
      "what key scales are made of: the published running maximum or range; the group's own range bounded by it; the "
      "own range alone");
    f("key_group", &o::key_group, kv_whole{32, 4096, 32, "chunk", 0},
      "tokens that share a key scale, a multiple of 32 (ema_clipped, range)");
    f("zero_point", &o::zero_point, kv_on_off{},
      "codes over the range as it is, not symmetric about 0 (ema_clipped, range)");
    f("rotate", &o::rotate, kv_one_of{}, "Walsh-Hadamard rotation of keys, values or both");
    f("key_alloc", &o::key_alloc, kv_one_of{},
      "widths of key channels, 0 to 6 bits, kv-bits on the average: chosen for each block by what queries make of a "
      "channel, or off; auto: chosen unless kv-bits is 8, or keys have outliers, a rotation or no zero point");
    f("key_quarters", &o::key_quarters, kv_whole{0, 3}, "quarters of a bit beyond that average (key-alloc)");
    f("key_feedback", &o::key_feedback, kv_one_of{},
      "round a key's channels one after the other, so that errors cancel in what the mean query makes of them; auto: "
      "where channels have widths of their own (key-alloc)");
    f("outlier_ratio", &o::outlier_ratio, kv_real{0.0, 0.1}, "share of entries kept apart in 16 bits; 0: none");
    f("v_outlier_ratio", &o::v_outlier_ratio, kv_real{0.0, 0.1, "same", -1.0},
      "that share of values, where it differs");
    f("ema_alpha", &o::ema_alpha, kv_real{1e-6, 1.0}, "weight of the newest chunk in the running statistics");
    f("clip_factor", &o::clip_factor, kv_real{1.0, 1e6}, "a chunk counts as at most this times what was seen before");
    f("sink_tokens", &o::sink_tokens, kv_whole{0, 4096}, "first tokens of a sequence, kept exact");
    f("warmup_chunks", &o::warmup_chunks, kv_whole{0, INT32_MAX},
      "chunks whose keys stay exact while the statistics settle");
    f("warmup_keep", &o::warmup_keep, kv_on_off{}, "keep them exact for ever");
    f("bypass_layers", &o::bypass_layers, kv_whole{0, 100000, 1, "auto", -1},
      "first layers kept at higher precision; auto: a tenth of them");
    f("bypass_type", &o::bypass_type, kv_one_of{}, "how they are kept: blocks of 8-bit codes, or 16 bits");
    f("only_layer", &o::only_layer, kv_whole{0, 100000, 1, "all", -1},
      "compress this layer alone and keep the others exact, to see what a layer costs; counted from 0");
    f("seal_decode", &o::seal_decode, kv_on_off{}, "seal generated text too");
    f("ema_decay", &o::ema_decay, kv_real{1e-6, 0.999999}, "what a channel's running maximum keeps of itself a chunk");
    f("key_bits_normal", &o::key_bits_normal, kv_width{}, "bits of a key's code");
    f("value_bits_normal", &o::value_bits_normal, kv_width{}, "bits of a value's code");
    f("key_bits_sink_outlier", &o::key_bits_sink_outlier, kv_width{},
      "bits of the first tokens' keys and of flagged channels; 16: kept as they are");
    f("value_bits_sink_outlier", &o::value_bits_sink_outlier, kv_width{}, "the same of values");
    f("outlier_threshold_relative", &o::outlier_threshold_relative, kv_real{1.000001, 1e6},
      "R: a channel is flagged above R times its running maximum mu, this chunk in it: above R D / (1 - R (1 - D)) "
      "times the mu before, D the decay; never in a first chunk, nor if it was heavy all along");
    f("outlier_threshold_abs", &o::outlier_threshold_abs, kv_real{1e-6, 65504.0, "off", 0.0},
      "a channel is flagged above this, too");
    f("outlier_detection", &o::outlier_detection, kv_on_off{}, "flag channels");
    f("value_quant_groups", &o::value_quant_groups, kv_whole{0, 2048},
      "equal runs of a head's value channels that share maximum, flag and scale; 0: every channel its own");
    f("stream_range", &o::stream_range, kv_one_of{},
      "what a scale covers: the running maximum, or of entries of more bits the chunk's own where it is larger; the "
      "running maximum, as published; the chunk's own");
    f("pre_rope", &o::pre_rope, kv_on_off{}, "seal keys before RoPE, and turn them while they are read");
    f("stat_reset", &o::stat_reset, kv_whole{0, 1000000}, "chunks after which running maxima start anew; 0: never");
    f("alpha", &o::alpha, kv_real{0.0, 1.0},
      "weight in a token's score of the attention between it and the guide; less in later layers, half of it in the "
      "last one");
    f("beta", &o::beta, kv_real{0.0, 1.0}, "weight of the position, its logarithm over that of the prompt's length");
    f("gamma", &o::gamma, kv_real{0.0, 1.0}, "weight of the guide's share of the prompt");
    f("theta_h", &o::theta_h, kv_real{-1000.0, 1000.0}, "least score of tokens of the first of level-bits");
    f("theta_m", &o::theta_m, kv_real{-1000.0, 1000.0}, "least score of tokens of the second; the rest has the third");
    f("level_bits", &o::level_bits, kv_levels{},
      "bits of a code on the three levels, of 16, 8, 5, 4, 3, 2, not rising; a last one of 0: such tokens are dropped");
    f("guide_norm", &o::guide_norm, kv_one_of{},
      "what attention is brought to before it is weighed, over the layer's tokens so far");
    f("guide", &o::guide, kv_one_of{},
      "which tokens of the prompt are the guide: its first ones, to which tokens give weight; or its last ones, by "
      "what "
      "they give, when the prompt is complete");
    f("guide_tokens", &o::guide_tokens, kv_whole{1, 1000000, 1, "auto", 0},
      "length of the guide; auto: a fifth of the prompt, up to 128");
    f("propagate", &o::propagate, kv_one_of{},
      "who drops tokens: nobody; each layer from its own cache; the first layer of each "
      "share for all later ones, which compute the others alone");
    f("early_ratio", &o::early_ratio, kv_real{1e-6, 1.0},
      "share of a chunk that the first three tenths of the layers keep (propagate cache or layers)");
    f("middle_ratio", &o::middle_ratio, kv_real{1e-6, 1.0}, "that share of the next four tenths");
    f("later_ratio", &o::later_ratio, kv_real{1e-6, 1.0}, "that share of the last three tenths");
    f("budget", &o::budget, kv_one_of{}, "what a share is a share of: tokens, or 8 bits for each (propagate cache)");
    f("protect", &o::protect, kv_on_off{},
      "first tokens are exact; they, the guide and the prompt's last tokens are never dropped and have the second "
      "level at least");
    f("keep_last", &o::keep_last, kv_whole{0, 1000000}, "how many last tokens of the prompt that is (protect)");
    f("key_axis", &o::key_axis, kv_one_of{},
      "what of keys has a minimum and a scale of its own: a channel of a level's tokens, or a token");
    f("min_class", &o::min_class, kv_whole{0, 4096},
      "a level of fewer tokens in a chunk joins the next wider one, which takes fewer scales");
    f("residual", &o::residual, kv_whole{32, 4096, 32},
      "tokens that are quantized together, and read together of a prompt; keys of fewer newest ones are exact, values "
      "of so many more; a multiple of 32");
    f("retain_rate", &o::retain_rate, kv_real{1e-6, 1.0},
      "share of the prompt's tokens that each kv head of a layer keeps, the last 8 among them");
    f("tsp_rate", &o::tsp_rate, kv_real{1e-6, 1.0},
      "share of the prompt's tokens that goes on to the layers behind tsp-layer, which keep retain-rate / tsp-rate of "
      "these");
    f("tsp_layer", &o::tsp_layer, kv_whole{0, 100000, 1, "auto", -1},
      "the layer that chooses them, counted from 0; auto: half of the layers, less one");
    f("pooling", &o::pooling, kv_one_of{}, "what a token's score takes of the 7 around it");
    f("store", &o::store, kv_one_of{},
      "how what is kept is stored: in 16 bits, or sealed as livekv does, in kv-bits with a group's own range");
    f("target_tokens", &o::target_tokens, kv_whole{2, 10000000},
      "the most that each layer keeps of a context and the question that it is read for");
    f("normalize", &o::normalize, kv_on_off{},
      "weights of the question's tokens times the share of keys that each sees");
    f("calibration", &o::calibration, kv_file_name{},
      "what python -m python_eval.calibrate made of the model for as many bits; keys and values are looked up one by "
      "one while they are read, which is slow");
    f("measure_error", &o::measure_error, kv_switch{"kv-error"}, "measure signal to noise while sealing, for --stats");
}

}  // namespace livekv
