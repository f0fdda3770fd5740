#include <cmath>
#include <cstring>
#include <limits>

#include "check.h"
#include "error.h"
#include "model/arch/arch.h"
#include "model/gguf_file.h"
#include "model/hparams.h"
#include "model/weights.h"
#include "tiny_model.h"

using namespace livekv;

namespace {

void write_bytes(const std::string & path, const std::string & bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
}

void load(const std::string & path) {
    const gguf_file file(path);
    const hparams hp = hparams::read(file);
    weights(file, hp, 0, false);
}

// A tiny model changed by edit must be refused with a message that holds part.
void refuses(const std::function<void(tiny_spec &)> & edit, const std::string & part) {
    tiny_spec spec;
    edit(spec);
    const temporary_file file(".gguf");
    write_tiny_model(spec, file.path());
    CHECK_ERROR(load(file.path()), part);
}

void refuses_keys(const std::function<void(gguf_context *)> & edit, const std::string & part) {
    refuses([&](tiny_spec & spec) { spec.edit_keys = edit; }, part);
}

}  // namespace

TEST(reads_shape_and_tensors_of_a_model) {
    const temporary_file path(".gguf");
    write_tiny_model({}, path.path());
    const gguf_file file(path.path());
    const hparams hp = hparams::read(file);
    CHECK_EQ(hp.n_layer, 2);
    CHECK_EQ(hp.n_embd_q(1), 128);
    CHECK_EQ(hp.n_embd_kv(1), 64);
    CHECK_EQ(hp.n_vocab, 259);
    CHECK_EQ(hp.kv_f16_bytes_per_token(), 2 * 2 * 64 * 2);
    const weights w(file, hp, 0, false);
    CHECK_EQ(w.layers.size(), size_t(2));
    CHECK(w.output != w.token_embd);
    const ggml_tensor * t = file.get_tensor("output_norm.weight", {64});
    float first = 0.0f;
    std::memcpy(&first, file.tensor_data(t), sizeof(first));
    CHECK_EQ(first, 1.0f);
}

TEST(every_truncation_is_an_error_and_none_a_crash) {
    const temporary_file whole(".gguf");
    write_tiny_model({}, whole.path());
    const std::string bytes = check::read_file(whole.path());
    const temporary_file cut(".gguf");
    // Every length of the header, then steps through metadata, tensor list and data.
    for (size_t n = 1; n < bytes.size(); n += n < 64 ? 1 : n < 12000 ? 97 : 9001) {
        write_bytes(cut.path(), bytes.substr(0, n));
        CHECK_ERROR(load(cut.path()), cut.path());
    }
}

TEST(files_that_are_no_model_are_refused) {
    const temporary_file file(".gguf");
    CHECK_ERROR(load(file.path()), "No such file");
    write_bytes(file.path(), "");
    CHECK_ERROR(load(file.path()), "is empty");
    write_bytes(file.path(), "hello, this is not a model at all");
    CHECK_ERROR(load(file.path()), "not a GGUF file");
    CHECK_ERROR(load("/"), "is not a file but a folder");
    CHECK_ERROR(load("/dev/null"), "is not a file");
}

TEST(corrupted_header_fields_are_refused) {
    const temporary_file whole(".gguf");
    write_tiny_model({}, whole.path());
    const std::string bytes = check::read_file(whole.path());
    const temporary_file bad(".gguf");
    // Bytes 4..24: version, number of tensors, number of keys.
    for (size_t at = 4; at < 24; ++at) {
        std::string copy = bytes;
        copy[at] = static_cast<char>(0xff);
        write_bytes(bad.path(), copy);
        CHECK_ERROR(load(bad.path()), bad.path());
    }
}

TEST(flipped_bytes_are_errors_or_harmless_and_never_crash) {
    const temporary_file whole(".gguf");
    write_tiny_model({}, whole.path());
    const std::string bytes = check::read_file(whole.path());
    const temporary_file bad(".gguf");
    std::mt19937 rng(11);
    int n_refused = 0;
    for (int i = 0; i < 400; ++i) {
        std::string copy = bytes;
        // The header, metadata and tensor list end before byte 16,000; the data behind them is any bytes.
        for (int flips = 1 + i % 3; flips > 0; --flips) {
            copy[rng() % 16000] = static_cast<char>(rng());
        }
        write_bytes(bad.path(), copy);
        try {
            load(bad.path());
        } catch (const error &) {
            ++n_refused;
        }
    }
    CHECK(n_refused > 50);
}

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
}

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

void loads_with(const std::function<void(gguf_context *)> & edit) {
    tiny_spec spec;
    spec.edit_keys = edit;
    const temporary_file file(".gguf");
    write_tiny_model(spec, file.path());
    load(file.path());
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

TEST(every_tensor_is_used_or_refused_by_name) {
    for (const char * name :
         {"blk.0.attn_q_norm.weight", "blk.1.ffn_down.scale", "output.bias", "rope_factors_long.weight",
          "blk.2.attn_norm.weight", "blk.0.ffn_gate_exps.weight", "anything"}) {
        refuses([&](tiny_spec & s) { s.extra_tensors = {name}; }, "1 tensor has no place");
        refuses([&](tiny_spec & s) { s.extra_tensors = {name}; }, std::string("'") + name + "'");
    }
    refuses([](tiny_spec & s) { s.extra_tensors = {"a", "b", "c", "d"}; }, "4 tensors have");
    refuses([](tiny_spec & s) { s.extra_tensors = {"blk.0.ffn_gate.bias"}; }, "[64], expected [96]");
    tiny_spec spec;
    spec.extra_tensors = {"blk.0.attn_rot_embd.weight", "blk.1.attn_rot_embd", "blk.0.ffn_down.bias"};
    const temporary_file path(".gguf");
    write_tiny_model(spec, path.path());
    const gguf_file file(path.path());
    const weights w(file, hparams::read(file), 0, false);
    CHECK(w.layers[0].b_down != nullptr);
    CHECK(w.layers[1].b_down == nullptr);
}

TEST(parts_of_a_split_file_say_which_they_are) {
    for (const bool whole_header : {true, false}) {
        refuses_keys(
            [&](gguf_context * g) {
                gguf_set_val_u16(g, "split.no", 1);
                gguf_set_val_u16(g, "split.count", 3);
                if (!whole_header) {  // as parts after the first are
                    gguf_remove_key(g, "general.architecture");
                }
            },
            "part 2 of 3");
    }
    loads_with([](gguf_context * g) { gguf_set_val_u16(g, "split.count", 1); });
}

TEST(big_endian_files_are_called_so) {
    const temporary_file file(".gguf");
    for (const char version : {1, 2, 3}) {
        write_bytes(file.path(), std::string("GGUF\0\0\0", 7) + version + std::string(64, '\0'));
        CHECK_ERROR(load(file.path()), "big-endian");
    }
}

TEST(misshapen_tensors_are_named_with_both_shapes) {
    refuses([](tiny_spec & s) { s.without_tensor = "blk.1.ffn_up.weight"; }, "'blk.1.ffn_up.weight' is missing");
    refuses([](tiny_spec & s) { s.without_tensor = "token_embd.weight"; }, "token_embd.weight");
    refuses(
        [](tiny_spec & s) {
            s.transposed_tensor = "blk.0.attn_k.weight";
            s.n_head_kv = 4;
            s.n_head = 4;
        },
        "[128, 64], expected [64, 128]");
    refuses([](tiny_spec & s) { s.retyped_tensor = "blk.0.ffn_norm.weight"; }, "has type f16, expected f32");
    for (const char * name : {"blk.1.ffn_down.weight", "token_embd.weight"}) {
        refuses(
            [&](tiny_spec & s) {
                s.retyped_tensor = name;
                s.retyped_to = GGML_TYPE_I32;
            },
            "has type i32, which ggml cannot compute with");
    }
}

TEST(tied_embeddings_serve_as_output) {
    const temporary_file path(".gguf");
    tiny_spec spec;
    spec.tied = true;
    write_tiny_model(spec, path.path());
    const gguf_file file(path.path());
    const weights w(file, hparams::read(file), 0, false);
    CHECK_EQ(std::string(w.output->name), "token_embd.weight");
}

TEST(absurd_precheck_values_do_not_reach_ggml) {
    // An empty key name, and a dimension of zero: ggml's reader aborts on both.
    const auto u32 = [](uint32_t v) { return std::string(reinterpret_cast<char *>(&v), sizeof(v)); };
    const auto u64 = [](uint64_t v) { return std::string(reinterpret_cast<char *>(&v), sizeof(v)); };
    const temporary_file file(".gguf");
    write_bytes(file.path(), "GGUF" + u32(3) + u64(0) + u64(1) + u64(0) + u32(GGUF_TYPE_UINT32) + u32(1));
    CHECK_ERROR(load(file.path()), "has no name");
    write_bytes(file.path(), "GGUF" + u32(3) + u64(1) + u64(0) + u64(1) + "t" + u32(1) + u64(0) + u32(0) + u64(0));
    CHECK_ERROR(load(file.path()), "empty dimension");
    write_bytes(file.path(),
                "GGUF" + u32(3) + u64(0) + u64(1) + u64(17) + "general.alignment" + u32(GGUF_TYPE_FLOAT32) + u32(0));
    CHECK_ERROR(load(file.path()), "must be one uint32");
    // A zero byte in a key hides its rest from C strings, a size near 2^64 wraps, a huge count is quadratic work.
    write_bytes(file.path(), "GGUF" + u32(3) + u64(0) + u64(1) + u64(18) + "general.alignment" + std::string(1, '\0') +
                                 u32(GGUF_TYPE_FLOAT32) + u32(0));
    CHECK_ERROR(load(file.path()), file.path());
    write_bytes(file.path(), "GGUF" + u32(3) + u64(1) + u64(0) + u64(1) + "t" + u32(1) + u64((uint64_t(1) << 62) - 1) +
                                 u32(GGML_TYPE_F32) + u64(0));
    CHECK_ERROR(load(file.path()), file.path());
    write_bytes(file.path(), "GGUF" + u32(3) + u64(0) + u64(uint64_t(1) << 40));
    CHECK_ERROR(load(file.path()), file.path());
}

TEST_MAIN
