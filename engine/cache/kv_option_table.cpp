#include "cache/kv_option_table.h"

#include "cache/kv_cache.h"
#include "error.h"

namespace livekv {

void declare_kv_options(option_table & table, kv_options & o, bool policy_is_list) {
    table.group("Cache");
    if (!policy_is_list) {
        table.choice("--kv", o.policy, kv_policy_names(), "how keys and values are stored");
    }
    table.integer("--chunk-size", o.chunk_size, 32, 4096,
                  "prompt tokens processed together, and sealed; a multiple of 32");
    table.require([&o](const std::string &) { return o.chunk_size % 32 == 0; }, "a multiple of 32");

    table.group("Compression (--kv livekv)");
    table.preset(
        "--preset", kv_preset_names(), [&o](const std::string & name) { apply_kv_preset(name, o); },
        "settings to start from, changed by other options wherever they stand: the published method; about 5 bits; "
        "under 4 bits");
    table.integers("--kv-bits", o.bits, 2, 8, "bits of a code: 2, 3, 4, 5 or 8; keys and values, or keys,values");
    table.require(
        [&o](const std::string &) {
            for (const int64_t b : o.bits) {
                if (b == 6 || b == 7) {
                    return false;
                }
            }
            return o.bits.size() <= 2;
        },
        "one or two of 2, 3, 4, 5 and 8");
    table.choice(
        "--scale-method", o.scale_method, {"ema_absmax", "ema_minmax", "ema_clipped", "range"},
        "what key scales are made of: the published running maximum or range; the group's own range bounded by "
        "it; the own range alone");
    table.integer_or("--key-group", o.key_group, "chunk", 0, 32, 4096,
                     "tokens that share a key scale, a multiple of 32 (ema_clipped, range)");
    table.require([&o](const std::string &) { return o.key_group % 32 == 0; }, "a multiple of 32");
    table.toggle("--zero-point", o.zero_point,
                 "codes over the range as it is, not symmetric about 0 (ema_clipped, range)");
    table.toggle("--scale-search", o.scale_search, "narrow a range where that lowers the squared error");
    table.choice("--rotate", o.rotate, {"none", "k", "v", "kv"}, "Walsh-Hadamard rotation of keys, values or both");
    table.real("--outlier-ratio", o.outlier_ratio, 0.0, 0.1, "share of entries kept apart in 16 bits; 0: none");
    table.real_or("--v-outlier-ratio", o.v_outlier_ratio, "same", -1.0, 0.0, 0.1,
                  "that share of values, where it differs");
    table.real("--ema-alpha", o.ema_alpha, 1e-6, 1.0, "weight of the newest chunk in the running statistics");
    table.real("--clip-factor", o.clip_factor, 1.0, 1e6, "a chunk counts as at most this times what was seen before");
    table.integer("--sink-tokens", o.sink_tokens, 0, 4096, "first tokens of a sequence, kept exact");
    table.integer("--warmup-chunks", o.warmup_chunks, 0, INT32_MAX,
                  "chunks whose keys stay exact while the statistics settle");
    table.toggle("--warmup-keep", o.warmup_keep, "keep them exact for ever");
    table.integer("--tail-chunks", o.tail_chunks, 0, INT32_MAX, "newest full chunks that stay raw, beside the open one");
    table.integer_or("--bypass-layers", o.bypass_layers, "auto", -1, 0, 100000,
                     "first layers kept at higher precision; auto: a tenth of them");
    table.choice("--bypass-type", o.bypass_type, {"q8_0", "f16"},
                 "how they are kept: blocks of 8-bit codes, or 16 bits");
    table.toggle("--seal-decode", o.seal_decode, "seal generated text too");
    table.flag("--kv-error", o.measure_error, "measure signal to noise while sealing, for --stats");
}

const std::vector<std::string> & kv_preset_names() {
    static const std::vector<std::string> names = {"default", "reference", "quality", "small"};
    return names;
}

void apply_kv_preset(const std::string & name, kv_options & o) {
    kv_options p;
    p.policy = o.policy;
    p.measure_error = o.measure_error;
    if (name == "reference") {  // what the published system does, bits and quality both
        p.scale_method = "ema_absmax";
        p.key_group = 0;
        p.zero_point = false;
        p.rotate = "none";
        p.outlier_ratio = 0.01;
        p.v_outlier_ratio = -1.0;
        p.bypass_layers = -1;
        p.bypass_type = "f16";
        p.warmup_keep = true;
        p.seal_decode = false;
    } else if (name == "quality") {
        p.bits = {5, 4};
        p.key_group = 64;
        p.outlier_ratio = 0.01;
    } else if (name == "small") {
        p.bits = {4, 3};
    } else if (name != "default") {
        fail("unknown preset '", name, "'");
    }
    o = p;
}

}  // namespace livekv
