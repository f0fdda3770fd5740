// Gemma 3 (text): layers that see a window and layers that see all, each kind with rotary positions of its own over
// halves of a head; a norm of every head's queries and keys, norms after attention and feed-forward too, a
// feed-forward gated by GELU, and embeddings times sqrt(n_embd).

#include <cmath>

#include "model/arch/common_shape.h"
#include "model/arch/decoder_layer.h"

namespace livekv {

namespace {

constexpr uint32_t usual_pattern = 6;         // every sixth layer sees all
constexpr float usual_local_base = 10000.0f;  // of the others' rotary positions
constexpr int64_t layers_of_27b = 62;

void shape(arch_keys & keys, hparams & hp) {
    read_sizes(keys, hp);
    read_rms_norm(keys, hp);
    read_rope(keys, hp, rope_order::neox);
    read_windows(keys, hp, usual_pattern);
    rope_params local = hp.ropes.front();
    local.scaling = rope_scaling::none;
    local.factor = 1.0f;
    local.divisors.clear();
    local.base = read_positive(keys, keys::rope_freq_base_swa, usual_local_base);
    hp.ropes.push_back(local);
    for (layer_shape & layer : hp.layers) {
        layer.rope = layer.window > 0 ? 1 : 0;
    }
    hp.embedding_scale = std::sqrt(static_cast<float>(hp.n_embd));
    // Most files do not say it, and the largest model goes by what an equal share of n_embd would be.
    const int64_t width = hp.n_layer == layers_of_27b ? hp.n_embd / hp.n_head(0) : hp.head_dim(0);
    hp.attention_scale = read_positive(keys, keys::attention_scale, 1.0f / std::sqrt(static_cast<float>(width)));
}

layer_weights tensors(const layer_tensors & file, const hparams & hp, int64_t il) {
    layer_weights l;
    l.attn_norm = file.vector("attn_norm.weight", hp.n_embd);
    l.q_norm = file.vector("attn_q_norm.weight", hp.head_dim(il));
    l.k_norm = file.vector("attn_k_norm.weight", hp.head_dim(il));
    l.attn_post_norm = file.vector("post_attention_norm.weight", hp.n_embd);
    l.ffn_norm = file.vector("ffn_norm.weight", hp.n_embd);
    l.ffn_post_norm = file.vector("post_ffw_norm.weight", hp.n_embd);
    fetch_attention(file, hp, il, l);
    fetch_feed_forward(file, hp, il, l);
    l.rope_divisors = file.rope_divisors(hp, il);
    return l;
}

attention_inputs pre(const layer_nodes & layer, ggml_tensor * x) {
    attention_inputs in =
        turn(layer, norm_heads(layer, project(layer, layer.name(layer.norm(x, layer.w.attn_norm), "attn_norm"))));
    in.scale = layer.hp.attention_scale;
    return in;
}

ggml_tensor * post(const layer_nodes & layer, ggml_tensor * attended, ggml_tensor * x) {
    ggml_context * ctx = layer.ctx;
    ggml_tensor * out = layer.norm(attention_output(layer, attended), layer.w.attn_post_norm);
    ggml_tensor * cur = layer.name(ggml_add(ctx, out, x), "ffn_inp");
    ggml_tensor * ffn = layer.name(layer.norm(cur, layer.w.ffn_norm), "ffn_norm");
    ffn = layer.norm(gated(layer, ffn, gate_function::gelu), layer.w.ffn_post_norm);
    return layer.name(ggml_add(ctx, ffn, cur), "l_out");
}

}  // namespace

extern const architecture gemma3;
const architecture gemma3 = {"gemma3", shape, tensors, pre, post};

}  // namespace livekv
