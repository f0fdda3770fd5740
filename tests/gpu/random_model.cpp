// random_model FILE [layers 32]: a LLaMA of Llama-3.1-8B's shape with random q4_0 weights, for speed and memory only.
// Its vocabulary is the 256 bytes and words without meaning, as in tests/unit/tiny_model.h.

#include <ggml-cpp.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "kv/f16.h"
#include "tiny_model.h"

namespace {

constexpr int64_t n_embd = 4096;
constexpr int64_t n_head = 32;
constexpr int64_t n_head_kv = 8;
constexpr int64_t head_dim = 128;
constexpr int64_t n_ff = 14336;
constexpr int64_t n_vocab = 32000;
constexpr float deviation = 0.02f;
constexpr float nibble_deviation = 4.6f;  // of 0 ... 15, each as likely

// Blocks of q4_0: a scale, then 32 codes of 4 bits.
std::vector<uint8_t> random_q4(size_t n_values, std::mt19937_64 & rng) {
    std::vector<uint8_t> bytes(n_values / 32 * 18);
    const uint16_t scale = livekv::f32_to_f16(deviation / nibble_deviation);
    for (size_t at = 0; at < bytes.size(); at += 18) {
        std::memcpy(bytes.data() + at, &scale, 2);
        const uint64_t codes[2] = {rng(), rng()};
        std::memcpy(bytes.data() + at + 2, codes, 16);
    }
    return bytes;
}

}  // namespace

int main(int argc, char ** argv) {
    if (argc < 2) {
        std::fprintf(stderr, "usage: random_model FILE [layers]\n");
        return 2;
    }
    const uint32_t n_layer = argc > 2 ? static_cast<uint32_t>(std::atoi(argv[2])) : 32;
    gguf_context_ptr gguf(gguf_init_empty());
    gguf_context * g = gguf.get();
    gguf_set_val_str(g, "general.architecture", "llama");
    gguf_set_val_str(g, "general.name", "random 8B");
    gguf_set_val_u32(g, "llama.context_length", 2u << 20);
    gguf_set_val_u32(g, "llama.embedding_length", n_embd);
    gguf_set_val_u32(g, "llama.block_count", n_layer);
    gguf_set_val_u32(g, "llama.feed_forward_length", n_ff);
    gguf_set_val_u32(g, "llama.attention.head_count", n_head);
    gguf_set_val_u32(g, "llama.attention.head_count_kv", n_head_kv);
    gguf_set_val_u32(g, "llama.attention.key_length", head_dim);
    gguf_set_val_u32(g, "llama.attention.value_length", head_dim);
    gguf_set_val_f32(g, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    gguf_set_val_f32(g, "llama.rope.freq_base", 500000.0f);
    tiny::add_vocabulary(g, n_vocab);
    ggml_context_ptr ctx(ggml_init({(16 * n_layer + 16) * ggml_tensor_overhead(), nullptr, /*no_alloc=*/true}));
    std::vector<ggml_tensor *> tensors;
    const auto add = [&](const std::string & name, ggml_type type, int64_t ne0, int64_t ne1) {
        ggml_tensor * t =
            ne1 == 1 ? ggml_new_tensor_1d(ctx.get(), type, ne0) : ggml_new_tensor_2d(ctx.get(), type, ne0, ne1);
        ggml_set_name(t, name.c_str());
        gguf_add_tensor(g, t);
        tensors.push_back(t);
    };
    add("token_embd.weight", GGML_TYPE_Q4_0, n_embd, n_vocab);
    add("output_norm.weight", GGML_TYPE_F32, n_embd, 1);
    add("output.weight", GGML_TYPE_Q4_0, n_embd, n_vocab);
    for (uint32_t il = 0; il < n_layer; ++il) {
        const std::string blk = "blk." + std::to_string(il) + ".";
        add(blk + "attn_norm.weight", GGML_TYPE_F32, n_embd, 1);
        add(blk + "ffn_norm.weight", GGML_TYPE_F32, n_embd, 1);
        add(blk + "attn_q.weight", GGML_TYPE_Q4_0, n_embd, n_head * head_dim);
        add(blk + "attn_k.weight", GGML_TYPE_Q4_0, n_embd, n_head_kv * head_dim);
        add(blk + "attn_v.weight", GGML_TYPE_Q4_0, n_embd, n_head_kv * head_dim);
        add(blk + "attn_output.weight", GGML_TYPE_Q4_0, n_head * head_dim, n_embd);
        add(blk + "ffn_gate.weight", GGML_TYPE_Q4_0, n_embd, n_ff);
        add(blk + "ffn_up.weight", GGML_TYPE_Q4_0, n_embd, n_ff);
        add(blk + "ffn_down.weight", GGML_TYPE_Q4_0, n_ff, n_embd);
    }
    if (!gguf_write_to_file(g, argv[1], /*only_meta=*/true)) {
        std::fprintf(stderr, "random_model: cannot write '%s'\n", argv[1]);
        return 1;
    }
    std::ofstream out(argv[1], std::ios::binary | std::ios::app);
    std::mt19937_64 rng(1);
    const std::vector<char> nothing(GGUF_DEFAULT_ALIGNMENT);
    for (const ggml_tensor * t : tensors) {
        std::vector<uint8_t> bytes;
        if (t->type == GGML_TYPE_F32) {
            const std::vector<float> ones(static_cast<size_t>(ggml_nelements(t)), 1.0f);
            bytes.resize(ggml_nbytes(t));
            std::memcpy(bytes.data(), ones.data(), bytes.size());
        } else {
            bytes = random_q4(static_cast<size_t>(ggml_nelements(t)), rng);
        }
        out.write(reinterpret_cast<const char *>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
        out.write(nothing.data(),
                  static_cast<std::streamsize>(GGML_PAD(bytes.size(), GGUF_DEFAULT_ALIGNMENT) - bytes.size()));
    }
    out.close();
    if (!out) {
        std::fprintf(stderr, "random_model: cannot write '%s'\n", argv[1]);
        return 1;
    }
    return 0;
}
