// What a model's metadata says of its shape: used, or refused by name.

#include <cmath>
#include <limits>
#include <type_traits>

#include "error.h"
#include "model/arch/arch.h"
#include "refused_models.h"

using namespace refused_models;

namespace {

// A key with one value of its type, or with an array of two.
template <typename T>
void refuses_value(const char * key, gguf_type type, T value) {
    const T twice[] = {value, value};
    refuses_keys([&](gguf_context * g) { gguf_set_arr_data(g, key, type, twice, 2); }, key);
    refuses_keys(
        [&](gguf_context * g) {
            switch (type) {
                case GGUF_TYPE_FLOAT32:
                    return gguf_set_val_f32(g, key, static_cast<float>(value));
                case GGUF_TYPE_BOOL:
                    return gguf_set_val_bool(g, key, value != T(0));
                default:
                    return gguf_set_val_u32(g, key, static_cast<uint32_t>(value));
            }
        },
        key);
}

}  // namespace

TEST(wrong_or_missing_metadata_is_named) {
    std::string supported = "'mamba' is not supported; supported: ";
    for (const architecture * a : architectures()) {
        supported += (a == architectures().front() ? "'" : ", '") + std::string(a->name) + "'";
    }
    refuses_keys([](gguf_context * g) { gguf_set_val_str(g, "general.architecture", "mamba"); }, supported);
    for (const char * key : {"general.architecture", "llama.block_count", "llama.embedding_length",
                             "llama.attention.layer_norm_rms_epsilon", "llama.context_length"}) {
        refuses_keys([&](gguf_context * g) { gguf_remove_key(g, key); }, key);
    }
    refuses_keys([](gguf_context * g) { gguf_set_val_str(g, "llama.block_count", "two"); }, "expected an integer");
    refuses_keys([](gguf_context * g) { gguf_set_val_u32(g, "llama.block_count", 0); }, "llama.block_count");
    refuses_keys([](gguf_context * g) { gguf_set_val_u32(g, "llama.attention.head_count_kv", 3); }, "evenly");
    refuses_keys([](gguf_context * g) { gguf_set_val_u32(g, "llama.attention.key_length", 12); }, "multiple of 8");
    refuses_keys([](gguf_context * g) { gguf_set_val_f32(g, "llama.rope.freq_base", -1.0f); }, "freq_base");
    refuses_keys([](gguf_context * g) { gguf_set_val_f32(g, "llama.rope.scaling.factor", 1e-39f); }, "scaling.factor");
    refuses_keys([](gguf_context * g) { gguf_set_val_str(g, "llama.rope.scaling.type", "su"); }, "'su'");
    refuses_keys([](gguf_context * g) { gguf_set_val_u32(g, "llama.expert_count", 8); }, "mixture-of-experts");
    refuses_keys([](gguf_context * g) { gguf_set_val_str(g, "general.type", "adapter"); }, "is 'adapter', not 'model'");
    refuses_keys([](gguf_context * g) { gguf_set_val_u32(g, "general.quantization_version", 3); },
                 "quantization_version is 3");
    loads_with([](gguf_context * g) {
        gguf_set_val_str(g, "general.type", "model");
        gguf_set_val_u32(g, "general.quantization_version", 2);
    });
}

TEST(keys_that_change_the_result_and_are_not_read_are_refused_unless_neutral) {
    for (const char * key : {"llama.logit_scale", "llama.residual_scale", "llama.embedding_scale",
                             "llama.attention.clamp_kqv", "llama.attention.scale", "llama.final_logit_softcapping",
                             "llama.rope.scaling.attn_factor", "xielu.alpha_p", "llama.not_invented_yet"}) {
        refuses_value<float>(key, GGUF_TYPE_FLOAT32, 8.0f);
        loads_with([&](gguf_context * g) { gguf_set_val_f32(g, key, 0.0f); });
    }
    for (const char * key : {"llama.logit_scale", "llama.residual_scale", "llama.embedding_scale"}) {
        loads_with([&](gguf_context * g) { gguf_set_val_f32(g, key, 1.0f); });
    }
    refuses_value<int8_t>("llama.use_parallel_residual", GGUF_TYPE_BOOL, 1);
    refuses_value<int8_t>("llama.attention.causal", GGUF_TYPE_BOOL, 0);
    refuses_value<uint32_t>("llama.attention.sliding_window", GGUF_TYPE_UINT32, 511);
    refuses_value<uint32_t>("llama.pooling_type", GGUF_TYPE_UINT32, 3);
    refuses_keys([](gguf_context * g) { gguf_set_val_str(g, "llama.new_activation", "xielu"); }, "is a text");
    loads_with([](gguf_context * g) {
        gguf_set_val_bool(g, "llama.attention.causal", true);
        gguf_set_val_u32(g, "llama.attention.sliding_window", 512);  // the context's length
        gguf_set_val_f32(g, "llama.attention.scale", 1.0f / std::sqrt(32.0f));
        gguf_set_val_u32(g, "llama.vocab_size", 259);
        gguf_set_val_str(g, "llama.tensor_data_layout", "Meta AI original pth");
        gguf_set_val_f32(g, "llama.rope.scaling.factor", 2.0f);
        gguf_set_val_f32(g, "llama.rope.scale_linear", 2.0f);  // older files' name of it
        gguf_set_val_u32(g, "llama.rope.scaling.original_context_length", 512);
        gguf_set_val_str(g, "somebody.note", "of no concern");
    });
}

TEST(hostile_shapes_are_refused_whatever_the_architecture) {
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    for (const architecture * a : architectures()) {
        const std::string prefix = std::string(a->name) + ".";
        IN("architecture ", a->name);
        const auto refuses_here = [&](const std::string & key, auto value, const std::string & part) {
            refuses(
                [&](tiny_spec & spec) {
                    spec.arch = a->name;
                    spec.edit_keys = [&](gguf_context * g) {
                        if constexpr (std::is_same_v<decltype(value), float>) {
                            gguf_set_val_f32(g, (prefix + key).c_str(), value);
                        } else {
                            gguf_set_val_u32(g, (prefix + key).c_str(), static_cast<uint32_t>(value));
                        }
                    };
                },
                part.empty() ? prefix + key : part);
        };
        for (const char * size : {"block_count", "embedding_length", "context_length", "feed_forward_length",
                                  "attention.head_count", "attention.head_count_kv", "attention.key_length"}) {
            refuses_here(size, 0, "");
        }
        refuses_here("attention.head_count_kv", 3, "evenly");
        refuses_here("attention.key_length", 12, "multiple of 8");
        refuses_here("attention.value_length", 64, "for values");
        refuses_here("rope.dimension_count", 3, "");
        refuses_here("rope.dimension_count", 64, "");
        for (const float bad : {0.0f, -1.0f, nan, std::numeric_limits<float>::infinity()}) {
            refuses_here("rope.freq_base", bad, "");
        }
        refuses_here("attention.layer_norm_rms_epsilon", nan, "");
        refuses_here("not_invented_yet", 7, "");
    }
}

TEST(hostile_numbers_of_yarn_are_refused) {
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    const auto with = [](const char * key, auto value) {
        return [=](gguf_context * g) {
            gguf_set_val_str(g, "llama.rope.scaling.type", "yarn");
            gguf_set_val_f32(g, "llama.rope.scaling.factor", 4.0f);
            if constexpr (std::is_same_v<decltype(value), float>) {
                gguf_set_val_f32(g, key, value);
            } else {
                gguf_set_val_u32(g, key, static_cast<uint32_t>(value));
            }
        };
    };
    loads_with(with("llama.rope.scaling.original_context_length", 128));
    refuses_keys(with("llama.rope.scaling.original_context_length", 0), "original_context_length");
    for (const char * key : {"llama.rope.scaling.factor", "llama.rope.scaling.attn_factor",
                             "llama.rope.scaling.yarn_beta_fast", "llama.rope.scaling.yarn_beta_slow"}) {
        for (const float bad : {-1.0f, nan, std::numeric_limits<float>::infinity(), 1e-45f}) {
            refuses_keys(with(key, bad), key);
        }
    }
    const float below = 0.5f;
    refuses_keys(with("llama.rope.scaling.factor", below), "1 or more for YaRN");
    refuses_keys(with("llama.rope.scaling.attn_factor", below * 0), "attn_factor");
    refuses_keys(with("llama.rope.scaling.yarn_beta_fast", below), "more than beta_slow");
    refuses_keys(with("llama.rope.freq_base", below), "more than 1 for YaRN");
    refuses_keys(with("llama.rope.scaling.yarn_ext_factor", below), "yarn_ext_factor");
    refuses_keys(with("llama.rope.scaling.yarn_log_multiplier", below), "yarn_log_multiplier");
}

TEST(hostile_divisors_of_rope_are_refused) {
    for (const float bad : {0.0f, -1.0f, std::numeric_limits<float>::quiet_NaN(), 1e-45f}) {
        refuses(
            [&](tiny_spec & s) {
                s.head_dim = 128;  // whose half is what extra tensors hold
                s.extra_tensors = {"rope_freqs.weight"};
                s.edit_values = [&](const std::string & name, std::vector<float> & values) {
                    if (name == "rope_freqs.weight") {
                        values[7] = bad;
                    }
                };
            },
            "tensor 'rope_freqs.weight' holds");
    }
    refuses([](tiny_spec & s) { s.extra_tensors = {"rope_freqs.weight"}; }, "[64], expected [16]");
    const auto long_rope = [](tiny_spec & s) {
        s.arch = "phi3";
        s.long_rope = true;
    };
    tiny_spec intact;
    long_rope(intact);
    const temporary_file file(".gguf");
    write_tiny_model(intact, file.path());
    load(file.path());
    for (const std::string name : {"rope_factors_short.weight", "rope_factors_long.weight"}) {
        for (const float bad : {0.0f, -1.0f, std::numeric_limits<float>::quiet_NaN(), 1e-45f}) {
            refuses(
                [&](tiny_spec & s) {
                    long_rope(s);
                    s.edit_values = [&](const std::string & of, std::vector<float> & values) {
                        values[0] = of == name ? bad : values[0];
                    };
                },
                "tensor '" + name + "' holds");
        }
        refuses(
            [&](tiny_spec & s) {
                long_rope(s);
                s.without_tensor = name;
            },
            "tensor '" + name + "' is missing");
        refuses(
            [&](tiny_spec & s) {
                long_rope(s);
                s.retyped_tensor = name;
            },
            "tensor '" + name + "' has type f16");
    }
    const auto with = [&](const char * key, float value) {
        return [=](tiny_spec & s) {
            long_rope(s);
            s.edit_keys = [=](gguf_context * g) { gguf_set_val_f32(g, key, value); };
        };
    };
    for (const float bad : {0.0f, -1.0f, std::numeric_limits<float>::quiet_NaN(), 1e-45f}) {
        refuses(with("phi3.rope.scaling.attn_factor", bad), "attn_factor");
    }
    for (const char * type : {"linear", "yarn"}) {
        refuses(
            [&](tiny_spec & s) {
                long_rope(s);
                s.edit_keys = [=](gguf_context * g) {
                    gguf_set_val_str(g, "phi3.rope.scaling.type", type);
                    gguf_set_val_f32(g, "phi3.rope.scaling.factor", 4.0f);
                };
            },
            "key 'phi3.rope.scaling.factor' is 4, expected 1 beside tensor 'rope_factors_long.weight'");
    }
}

TEST(windows_come_from_the_metadata_or_are_refused) {
    const auto windows_of = [](const std::function<void(gguf_context *)> & edit) {
        tiny_spec spec;
        spec.arch = "gemma3";
        spec.n_layer = 4;
        spec.edit_keys = edit;
        const temporary_file path(".gguf");
        write_tiny_model(spec, path.path());
        load(path.path());
        const hparams hp = hparams::read(gguf_file(path.path()));
        std::vector<int64_t> windows;
        for (int64_t il = 0; il < hp.n_layer; ++il) {
            CHECK_EQ(hp.layers[static_cast<size_t>(il)].rope, hp.window(il) > 0 ? size_t(1) : size_t(0));
            windows.push_back(hp.window(il));
        }
        return windows;
    };
    const char * const pattern = "gemma3.attention.sliding_window_pattern";
    const char * const window = "gemma3.attention.sliding_window";
    const auto listed = [&](std::vector<int8_t> values) {
        return [=](gguf_context * g) { gguf_set_arr_data(g, pattern, GGUF_TYPE_BOOL, values.data(), values.size()); };
    };
    using list = std::vector<int64_t>;
    CHECK(windows_of([](gguf_context *) {}) == (list{24, 0, 24, 0}));
    CHECK(windows_of([&](gguf_context * g) { gguf_set_val_u32(g, pattern, 1); }) == (list{0, 0, 0, 0}));
    CHECK(windows_of([&](gguf_context * g) { gguf_remove_key(g, pattern); }) == (list{24, 24, 24, 24}));
    CHECK(windows_of(listed({0, 1, 1, 0})) == (list{0, 24, 24, 0}));
    CHECK_ERROR(windows_of(listed({0, 1})), "an array of 2 numbers, expected one for each of 4 layers");
    CHECK_ERROR(windows_of([&](gguf_context * g) { gguf_set_val_u32(g, pattern, 0); }), pattern);
    CHECK_ERROR(windows_of([&](gguf_context * g) { gguf_set_val_u32(g, window, 0); }), window);
    CHECK_ERROR(windows_of([&](gguf_context * g) { gguf_remove_key(g, window); }), window);
    CHECK_ERROR(windows_of([&](gguf_context * g) { gguf_set_val_f32(g, "gemma3.rope.freq_base_swa", 0.0f); }), "swa");
    CHECK_ERROR(windows_of([&](gguf_context * g) { gguf_set_val_f32(g, "gemma3.final_logit_softcapping", 30.0f); }),
                "softcapping");
}

TEST(shapes_given_for_each_layer_are_read_when_all_are_equal) {
    const auto set = [](const char * key, std::vector<uint32_t> values) {
        return [=](gguf_context * g) { gguf_set_arr_data(g, key, GGUF_TYPE_UINT32, values.data(), values.size()); };
    };
    loads_with(set("llama.attention.head_count", {4, 4}));
    loads_with(set("llama.attention.head_count_kv", {2, 2}));
    loads_with(set("llama.feed_forward_length", {96, 96}));
    for (const char * key :
         {"llama.attention.head_count", "llama.attention.head_count_kv", "llama.feed_forward_length"}) {
        refuses_keys(set(key, {2, 4}), std::string(key) + "' is 2 in one layer and 4 in another");
        refuses_keys(set(key, {2}), std::string(key) + "' is an array of 1 numbers");
#if !defined(__SANITIZE_ADDRESS__)  // ggml writes an empty list from a null pointer
        refuses_keys(set(key, {}), std::string(key) + "' is an array of 0 numbers");
#endif
        refuses_keys(set(key, {0, 0}), key);
        refuses_keys(
            [&](gguf_context * g) {
                const float halves[] = {1.5f, 1.5f};
                gguf_set_arr_data(g, key, GGUF_TYPE_FLOAT32, halves, 2);
            },
            key);
    }
}

TEST(layers_may_have_shapes_of_their_own) {
    hparams hp;
    hp.n_layer = 2;
    hp.layers = {{8, 2, 64, 96}, {6, 3, 32, 160}};
    CHECK(hp.n_head(0) == 8 && hp.n_head(1) == 6 && hp.n_ff(0) == 96 && hp.n_ff(1) == 160);
    CHECK(hp.n_embd_q(0) == 8 * 64 && hp.n_embd_q(1) == 6 * 32);
    CHECK(hp.n_embd_kv(0) == 2 * 64 && hp.n_embd_kv(1) == 3 * 32);
    CHECK_EQ(hp.kv_values_per_token(), 2 * (2 * 64 + 3 * 32));
    CHECK_EQ(hp.kv_f16_bytes_per_token(), 2 * hp.kv_values_per_token());
}

TEST_MAIN
