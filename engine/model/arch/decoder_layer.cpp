#include "model/arch/decoder_layer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "finite.h"

namespace livekv {

namespace {

// ggml's GELU on the CPU is 0 at minus infinity, which is the product of weights that are not numbers.
void keep_infinite(ggml_tensor * dst, const ggml_tensor *, int ith, int nth, void * /* unused */) {
    const int64_t first = ggml_nelements(dst) * ith / nth;
    const int64_t n = ggml_nelements(dst) * (ith + 1) / nth - first;
    const std::span<float> values(static_cast<float *>(dst->data) + first, static_cast<size_t>(n));
    if (first_not_finite(values)) {
        std::ranges::replace(values, -std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN());
    }
}

}  // namespace

void fetch_attention(const layer_tensors & file, const hparams & hp, int64_t il, layer_weights & l) {
    const int64_t n_q = hp.n_embd_q(il);
    const int64_t n_kv = hp.n_embd_kv(il);
    l.wq = file.matrix("attn_q.weight", hp.n_embd, n_q);
    l.wk = file.matrix("attn_k.weight", hp.n_embd, n_kv);
    l.wv = file.matrix("attn_v.weight", hp.n_embd, n_kv);
    l.wo = file.matrix("attn_output.weight", n_q, hp.n_embd);
    l.bq = file.find_vector("attn_q.bias", n_q);
    l.bk = file.find_vector("attn_k.bias", n_kv);
    l.bv = file.find_vector("attn_v.bias", n_kv);
    l.bo = file.find_vector("attn_output.bias", hp.n_embd);
}

void fetch_feed_forward(const layer_tensors & file, const hparams & hp, int64_t il, layer_weights & l) {
    const int64_t n_ff = hp.n_ff(il);
    l.ffn_gate = file.matrix("ffn_gate.weight", hp.n_embd, n_ff);
    l.ffn_up = file.matrix("ffn_up.weight", hp.n_embd, n_ff);
    l.ffn_down = file.matrix("ffn_down.weight", n_ff, hp.n_embd);
    l.b_gate = file.find_vector("ffn_gate.bias", n_ff);
    l.b_up = file.find_vector("ffn_up.bias", n_ff);
    l.b_down = file.find_vector("ffn_down.bias", hp.n_embd);
}

attention_inputs project(const layer_nodes & layer, ggml_tensor * x) {
    const layer_weights & w = layer.w;
    ggml_tensor * q = layer.name(layer.linear(x, w.wq, w.bq), "Qcur");
    ggml_tensor * k = layer.name(layer.linear(x, w.wk, w.bk), "Kcur");
    ggml_tensor * v = layer.name(layer.linear(x, w.wv, w.bv), "Vcur");
    const int64_t n_head_kv = layer.hp.n_head_kv(layer.il);
    return {layer.heads(q, layer.hp.n_head(layer.il)), layer.heads(k, n_head_kv), layer.heads(v, n_head_kv), 1.0f};
}

attention_inputs norm_heads(const layer_nodes & layer, attention_inputs in) {
    in.q = layer.name(layer.norm(in.q, layer.w.q_norm), "Qcur_normed");
    in.k = layer.name(layer.norm(in.k, layer.w.k_norm), "Kcur_normed");
    return in;
}

attention_inputs turn(const layer_nodes & layer, attention_inputs in) {
    in.q = layer.name(layer.rope(in.q), "Qcur_rope");
    in.k_unturned = in.k;
    in.k = layer.name(layer.rope(in.k), "Kcur_rope");
    in.scale = 1.0f / std::sqrt(static_cast<float>(layer.hp.head_dim(layer.il)));
    return in;
}

ggml_tensor * attention_output(const layer_nodes & layer, ggml_tensor * attended) {
    return layer.name(layer.linear(attended, layer.w.wo, layer.w.bo), "attn_out");
}

ggml_tensor * gated(const layer_nodes & layer, ggml_tensor * x, gate_function f) {
    const layer_weights & w = layer.w;
    ggml_tensor * gate = layer.name(layer.linear(x, w.ffn_gate, w.b_gate), "ffn_gate");
    if (f == gate_function::gelu && !w.on_gpu) {
        gate =
            layer.name(ggml_map_custom1_inplace(layer.ctx, gate, keep_infinite, GGML_N_TASKS_MAX, nullptr), "ffn_gate");
    }
    ggml_tensor * up = layer.name(layer.linear(x, w.ffn_up, w.b_up), "ffn_up");
    ggml_tensor * both = f == gate_function::gelu ? layer.name(ggml_geglu_split(layer.ctx, gate, up), "ffn_geglu")
                                                  : layer.name(ggml_swiglu_split(layer.ctx, gate, up), "ffn_swiglu");
    return layer.name(layer.linear(both, w.ffn_down, w.b_down), "ffn_out");
}

layer_weights plain_tensors(const layer_tensors & file, const hparams & hp, int64_t il) {
    layer_weights l;
    l.attn_norm = file.vector("attn_norm.weight", hp.n_embd);
    l.ffn_norm = file.vector("ffn_norm.weight", hp.n_embd);
    fetch_attention(file, hp, il, l);
    fetch_feed_forward(file, hp, il, l);
    file.fetch_rope(hp, il, l);
    return l;
}

attention_inputs plain_pre(const layer_nodes & layer, ggml_tensor * x) {
    return turn(layer, project(layer, layer.name(layer.norm(x, layer.w.attn_norm), "attn_norm")));
}

ggml_tensor * plain_post(const layer_nodes & layer, ggml_tensor * attended, ggml_tensor * x) {
    ggml_tensor * cur = layer.name(ggml_add(layer.ctx, attention_output(layer, attended), x), "ffn_inp");
    ggml_tensor * ffn = layer.name(layer.norm(cur, layer.w.ffn_norm), "ffn_norm");
    ffn = gated(layer, ffn, gate_function::silu);
    return layer.name(ggml_add(layer.ctx, ffn, cur), "l_out");
}

}  // namespace livekv
