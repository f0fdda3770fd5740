#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "error.h"
#include "kv/kv_block.h"
#include "kv/kv_fastkv.h"
#include "kv/kv_finch.h"
#include "kv/kv_guided.h"
#include "kv/kv_kivi.h"
#include "kv/kv_method.h"
#include "kv/kv_stream.h"

namespace livekv {

// Bits of a code, of keys and of values.
struct kv_bits {
    int64_t k;
    int64_t v;

    kv_bits(int64_t both) : k(both), v(both) {}  // implicit: most caches have one width
    kv_bits(int64_t keys, int64_t values) : k(keys), v(values) {}
    bool operator==(const kv_bits &) const = default;
};

// What is stored rotated (Walsh-Hadamard).
enum class kv_rotate { none, k, v, kv };

// How layers at higher precision are kept: blocks of 8-bit codes, or 16 bits.
enum class kv_bypass { q8_0, f16 };

// Whether key channels have widths of their own, chosen for each block; automatic: where no other option excludes it.
enum class kv_key_alloc { off, block, automatic };
enum class kv_key_feedback { off, on, automatic };

// What becomes of the tokens that fastkv keeps: rows of 16 bits, or blocks as livekv seals.
enum class kv_store_as { f16, livekv };

// An option with a value it must not have, or that its policy does not read.
class kv_option_error : public error {
  public:
    kv_option_error(const std::string & option, const std::string & why)
        : error(option + ": " + why), field(option), problem(why) {}

    std::string field;  // of kv_options, as for_each_kv_option calls it
    std::string problem;
};

// How keys and values are stored: the policy, and what it can be told. What each field may be, which name it has
// outside C++ and what it is for: kv_option_fields.h. The defaults are what docs/fidelity.md found to be worth their
// bits.
struct kv_options {
    std::string policy = "livekv";
    int64_t chunk_size = 512;
    int64_t warmup_chunks = 2;
    bool warmup_keep = false;
    int64_t sink_tokens = 4;
    int64_t bypass_layers = 0;  // -1: a tenth of the layers
    kv_bypass bypass_type = kv_bypass::q8_0;
    int64_t only_layer = -1;  // -1: all are compressed
    kv_bits bits = 4;
    int64_t key_group = 128;  // 0: the chunk
    bool zero_point = true;
    double ema_alpha = 0.1;
    double clip_factor = 4.0;
    double outlier_ratio = 0.0;
    double v_outlier_ratio = 0.0;  // -1: as keys
    kv_method::scale scale_method = kv_method::scale::ema_clipped;
    kv_rotate rotate = kv_rotate::v;
    kv_key_alloc key_alloc = kv_key_alloc::automatic;
    int64_t key_quarters = 0;
    kv_key_feedback key_feedback = kv_key_feedback::automatic;
    bool seal_decode = true;

    // Of kvstream (kv/kv_stream.h).
    double ema_decay = 0.9;
    int64_t key_bits_normal = 4;
    int64_t value_bits_normal = 4;
    int64_t key_bits_sink_outlier = 8;
    int64_t value_bits_sink_outlier = 8;
    double outlier_threshold_relative = 3.0;
    double outlier_threshold_abs = 0.0;  // 0: none
    bool outlier_detection = true;
    int64_t value_quant_groups = 0;
    stream_method::range stream_range = stream_method::range::cover;
    bool pre_rope = true;
    int64_t stat_reset = 0;

    // Of guided (kv/kv_guided.h).
    double alpha = 0.4;
    double beta = 0.3;
    double gamma = 0.3;
    double theta_h = 0.7;
    double theta_m = 0.3;
    std::array<int64_t, 3> level_bits = {8, 4, 2};
    double early_ratio = 0.8;
    double middle_ratio = 0.6;
    double later_ratio = 0.4;
    guided_method::norm guide_norm = guided_method::norm::minmax;
    guided_method::guide_at guide = guided_method::guide_at::first;
    int64_t guide_tokens = 0;
    guided_method::propagation propagate = guided_method::propagation::off;
    guided_method::budget_of budget = guided_method::budget_of::tokens;
    bool protect = true;
    int64_t keep_last = 8;
    guided_method::key_axis key_axis = guided_method::key_axis::channel;
    int64_t min_class = 32;

    // Of kivi (kv/kv_kivi.h).
    int64_t residual = 128;

    // Of fastkv (kv/kv_fastkv.h).
    double retain_rate = 0.1;
    double tsp_rate = 0.2;
    int64_t tsp_layer = -1;  // -1: half of the layers, less one
    fastkv_method::pooling pooling = fastkv_method::pooling::max;
    kv_store_as store = kv_store_as::f16;

    // Of finch (kv/kv_finch.h).
    int64_t target_tokens = 1024;
    bool normalize = true;
    std::string calibration = {};  // of kvquant (store/kv_calibration.h): a file

    bool measure_error = false;
    std::string preset = {};  // the set of values these started from; empty: none. No option of its own

    // Throws kv_option_error: a value out of its range, fields that contradict each other, or one that is not its
    // default though the policy does not read it.
    void check() const;

    // The same with every field that the policy `name` does not read at its default.
    kv_options for_policy(const std::string & name) const;

    // Whether key channels have widths of their own, and whether they are rounded by error feedback too.
    bool has_key_classes() const;
    bool has_key_feedback() const;

    kv_method method() const;
    stream_method stream(kv_side side) const;
    guided_method guided() const;
    kivi_method kivi() const;
    fastkv_method fastkv() const { return {retain_rate, tsp_rate, pooling}; }
    finch_method finch() const { return {target_tokens, normalize}; }

    // Throws kv_option_error where finch would keep nothing of a context, or of its chunks, for a question of so many
    // tokens.
    void require_room_for(int64_t n_context, int64_t n_question) const;

    // Tokens of a chunk that is full, and the most of a prompt that are processed together.
    int64_t chunk_tokens() const;

    // Of fastkv, the layer that chooses which tokens go on, of n_layer. Throws kv_option_error where no layer is
    // behind it.
    int64_t fastkv_layer(int64_t n_layer) const;

    // Layers kept at higher precision, of n_layer.
    int64_t n_bypass(int64_t n_layer) const;
};

}  // namespace livekv
