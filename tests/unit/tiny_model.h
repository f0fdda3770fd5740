#pragma once

// Writes small random model files for tests: deterministic, optionally damaged in one place.

#include <ggml-cpp.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <random>
#include <string>
#include <vector>

struct tiny_spec {
    std::string arch = "llama";
    uint32_t window = 24;    // of gemma3
    bool long_rope = false;  // divisors for short and for long texts: 1 and 4
    uint32_t n_layer = 2;
    uint32_t n_embd = 64;
    uint32_t n_head = 4;
    uint32_t n_head_kv = 2;
    uint32_t head_dim = 32;
    uint32_t n_ff = 96;
    uint32_t n_vocab = 259;  // the byte-fallback vocabulary; more are unused words
    uint32_t n_ctx = 512;
    bool tied = false;
    ggml_type matrix_type = GGML_TYPE_F32;
    ggml_type rounded_to = GGML_TYPE_F32;    // f32 matrices hold only values this type can hold
    std::string without_tensor;              // left out
    std::string transposed_tensor;           // written with its two dimensions exchanged
    std::string zeroed_tensor;               // all its values are 0
    std::vector<std::string> extra_tensors;  // vectors of n_embd ones behind the others
    std::string retyped_tensor;              // written with this type instead
    ggml_type retyped_to = GGML_TYPE_F16;
    std::function<void(const std::string & name, std::vector<float> & values)> edit_values;  // last word on a tensor
    std::function<void(gguf_context *)> edit_keys;  // last word on the metadata
};

// A file that is removed with its owner.
class temporary_file {
  public:
    explicit temporary_file(const std::string & suffix) {
        static std::atomic<int> serial{0};
        path_ = (std::filesystem::temp_directory_path() /
                 ("livekv-test-" + std::to_string(::getpid()) + "-" + std::to_string(serial++) + suffix))
                    .string();
    }
    ~temporary_file() { std::filesystem::remove(path_); }
    temporary_file(const temporary_file &) = delete;
    temporary_file & operator=(const temporary_file &) = delete;

    const std::string & path() const { return path_; }

  private:
    std::string path_;
};

namespace tiny {

inline void add_vocabulary(gguf_context * g, uint32_t n_vocab) {
    std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
    std::vector<float> scores(3, 0.0f);
    std::vector<int32_t> types = {2, 3, 3};  // unknown, control, control
    for (int byte = 0; byte < 256; ++byte) {
        char name[8];
        std::snprintf(name, sizeof(name), "<0x%02X>", byte);
        tokens.push_back(name);
        scores.push_back(0.0f);
        types.push_back(6);  // byte
    }
    for (uint32_t i = 259; i < n_vocab; ++i) {
        tokens.push_back("\u2581word" + std::to_string(i));
        scores.push_back(-static_cast<float>(i));
        types.push_back(1);  // normal
    }
    std::vector<const char *> names;
    for (const std::string & token : tokens) {
        names.push_back(token.c_str());
    }
    gguf_set_val_str(g, "tokenizer.ggml.model", "llama");
    gguf_set_arr_str(g, "tokenizer.ggml.tokens", names.data(), names.size());
    gguf_set_arr_data(g, "tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, scores.data(), scores.size());
    gguf_set_arr_data(g, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, types.data(), types.size());
    gguf_set_val_u32(g, "tokenizer.ggml.bos_token_id", 1);
    gguf_set_val_u32(g, "tokenizer.ggml.eos_token_id", 2);
    gguf_set_val_u32(g, "tokenizer.ggml.unknown_token_id", 0);
}

class writer {
  public:
    explicit writer(const tiny_spec & spec) : spec_(spec), gguf_(gguf_init_empty()) {
        ctx_.reset(ggml_init({size_t(64) << 20, nullptr, /*no_alloc=*/false}));
    }

    void write(const std::string & path) {
        gguf_context * g = gguf_.get();
        gguf_set_val_str(g, "general.architecture", spec_.arch.c_str());
        gguf_set_val_str(g, "general.name", "tiny");
        gguf_set_val_u32(g, key("context_length").c_str(), spec_.n_ctx);
        gguf_set_val_u32(g, key("embedding_length").c_str(), spec_.n_embd);
        gguf_set_val_u32(g, key("block_count").c_str(), spec_.n_layer);
        gguf_set_val_u32(g, key("feed_forward_length").c_str(), spec_.n_ff);
        gguf_set_val_u32(g, key("attention.head_count").c_str(), spec_.n_head);
        gguf_set_val_u32(g, key("attention.head_count_kv").c_str(), spec_.n_head_kv);
        gguf_set_val_u32(g, key("attention.key_length").c_str(), spec_.head_dim);
        gguf_set_val_u32(g, key("attention.value_length").c_str(), spec_.head_dim);
        gguf_set_val_f32(g, key("attention.layer_norm_rms_epsilon").c_str(), 1e-5f);
        gguf_set_val_f32(g, key("rope.freq_base").c_str(), 10000.0f);
        if (spec_.arch == "gemma3") {
            gguf_set_val_u32(g, key("attention.sliding_window").c_str(), spec_.window);
            gguf_set_val_u32(g, key("attention.sliding_window_pattern").c_str(), 2);
        }
        if (spec_.long_rope) {
            gguf_set_val_u32(g, key("rope.scaling.original_context_length").c_str(), spec_.n_ctx / 2);
        }
        add_vocabulary(g, spec_.n_vocab);
        if (spec_.edit_keys) {
            spec_.edit_keys(g);
        }
        const int64_t q = int64_t(spec_.n_head) * spec_.head_dim;
        const int64_t kv = int64_t(spec_.n_head_kv) * spec_.head_dim;
        matrix("token_embd.weight", spec_.n_embd, spec_.n_vocab);
        norm("output_norm.weight");
        if (!spec_.tied) {
            matrix("output.weight", spec_.n_embd, spec_.n_vocab);
        }
        for (uint32_t il = 0; il < spec_.n_layer; ++il) {
            const std::string blk = "blk." + std::to_string(il) + ".";
            norm(blk + "attn_norm.weight");
            if (spec_.arch == "phi3") {
                matrix(blk + "attn_qkv.weight", spec_.n_embd, q + 2 * kv);
            } else {
                matrix(blk + "attn_q.weight", spec_.n_embd, q);
                matrix(blk + "attn_k.weight", spec_.n_embd, kv);
                matrix(blk + "attn_v.weight", spec_.n_embd, kv);
            }
            matrix(blk + "attn_output.weight", q, spec_.n_embd);
            norm(blk + "ffn_norm.weight");
            if (spec_.arch == "gemma3") {
                norm(blk + "post_attention_norm.weight");
                norm(blk + "post_ffw_norm.weight");
            }
            if (spec_.arch == "gemma3" || spec_.arch == "qwen3") {
                norm(blk + "attn_q_norm.weight", spec_.head_dim);
                norm(blk + "attn_k_norm.weight", spec_.head_dim);
            }
            if (spec_.arch == "phi3") {
                matrix(blk + "ffn_up.weight", spec_.n_embd, 2 * spec_.n_ff);
            } else {
                matrix(blk + "ffn_gate.weight", spec_.n_embd, spec_.n_ff);
                matrix(blk + "ffn_up.weight", spec_.n_embd, spec_.n_ff);
            }
            matrix(blk + "ffn_down.weight", spec_.n_ff, spec_.n_embd);
        }
        if (spec_.long_rope) {
            const uint32_t n = spec_.head_dim / 2;
            add("rope_factors_short.weight", GGML_TYPE_F32, n, 1, std::vector<float>(n, 1.0f));
            add("rope_factors_long.weight", GGML_TYPE_F32, n, 1, std::vector<float>(n, 4.0f));
        }
        for (const std::string & name : spec_.extra_tensors) {
            norm(name);
        }
        gguf_write_to_file(g, path.c_str(), /*only_meta=*/false);
    }

  private:
    void matrix(const std::string & name, int64_t ne0, int64_t ne1) {
        if (name == spec_.transposed_tensor) {
            std::swap(ne0, ne1);
        }
        // Row sums of order one, so that the layers neither vanish nor explode.
        std::normal_distribution<float> normal(0.0f, 1.0f / std::sqrt(static_cast<float>(ne0)));
        std::vector<float> values(static_cast<size_t>(ne0 * ne1));
        for (float & value : values) {
            value = name == spec_.zeroed_tensor ? 0.0f : normal(rng_);
        }
        if (spec_.rounded_to != GGML_TYPE_F32) {
            std::vector<uint8_t> rounded(ggml_row_size(spec_.rounded_to, ne0) * static_cast<size_t>(ne1));
            ggml_quantize_chunk(spec_.rounded_to, values.data(), rounded.data(), 0, ne1, ne0, nullptr);
            ggml_get_type_traits(spec_.rounded_to)->to_float(rounded.data(), values.data(), ne0 * ne1);
        }
        add(name, spec_.matrix_type, ne0, ne1, values);
    }

    std::string key(const std::string & name) const { return spec_.arch + "." + name; }

    void norm(const std::string & name) { norm(name, spec_.n_embd); }
    void norm(const std::string & name, uint32_t n) { add(name, GGML_TYPE_F32, n, 1, std::vector<float>(n, 1.0f)); }

    void add(const std::string & name, ggml_type type, int64_t ne0, int64_t ne1, std::vector<float> values) {
        if (name == spec_.without_tensor) {
            return;
        }
        if (spec_.edit_values) {
            spec_.edit_values(name, values);
        }
        type = name == spec_.retyped_tensor ? spec_.retyped_to : type;
        ggml_tensor * t =
            ne1 == 1 ? ggml_new_tensor_1d(ctx_.get(), type, ne0) : ggml_new_tensor_2d(ctx_.get(), type, ne0, ne1);
        ggml_set_name(t, name.c_str());
        if (type == GGML_TYPE_F32) {
            std::copy(values.begin(), values.end(), static_cast<float *>(t->data));
        } else if (type == GGML_TYPE_I32) {
            std::fill_n(static_cast<int32_t *>(t->data), values.size(), 1);
        } else {
            ggml_quantize_chunk(type, values.data(), t->data, 0, ne1, ne0, nullptr);
        }
        gguf_add_tensor(gguf_.get(), t);
    }

    const tiny_spec & spec_;
    gguf_context_ptr gguf_;
    ggml_context_ptr ctx_;
    std::mt19937 rng_{7};
};

}  // namespace tiny

inline void write_tiny_model(const tiny_spec & spec, const std::string & path) {
    tiny::writer(spec).write(path);
}
