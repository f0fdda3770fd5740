// LLaMA, and Mistral within its window: RMS norms, rotary positions over neighbouring channels, grouped queries, and a
// gated feed-forward, each with biases where a file has them.

#include <cmath>

#include "error.h"
#include "model/arch/arch.h"
#include "model/arch/common_shape.h"

namespace livekv {

namespace {

void shape(arch_keys & keys, hparams & hp) {
    if (const uint32_t experts = keys.find_u32(keys::expert_count).value_or(0); experts > 0) {
        fail("'", keys.file().path(), "': mixture-of-experts models are not supported (", experts, " experts)");
    }
    read_sizes(keys, hp);
    read_rms_norm(keys, hp);
    read_rope(keys, hp);
}

layer_weights tensors(const layer_tensors & file, const hparams & hp, int64_t il) {
    const int64_t n_q = hp.n_embd_q(il);
    const int64_t n_kv = hp.n_embd_kv(il);
    const int64_t n_ff = hp.n_ff(il);
    layer_weights l;
    l.attn_norm = file.vector("attn_norm.weight", hp.n_embd);
    l.wq = file.matrix("attn_q.weight", hp.n_embd, n_q);
    l.wk = file.matrix("attn_k.weight", hp.n_embd, n_kv);
    l.wv = file.matrix("attn_v.weight", hp.n_embd, n_kv);
    l.wo = file.matrix("attn_output.weight", n_q, hp.n_embd);
    l.bq = file.find_vector("attn_q.bias", n_q);
    l.bk = file.find_vector("attn_k.bias", n_kv);
    l.bv = file.find_vector("attn_v.bias", n_kv);
    l.bo = file.find_vector("attn_output.bias", hp.n_embd);
    l.ffn_norm = file.vector("ffn_norm.weight", hp.n_embd);
    l.ffn_gate = file.matrix("ffn_gate.weight", hp.n_embd, n_ff);
    l.ffn_up = file.matrix("ffn_up.weight", hp.n_embd, n_ff);
    l.ffn_down = file.matrix("ffn_down.weight", n_ff, hp.n_embd);
    l.b_gate = file.find_vector("ffn_gate.bias", n_ff);
    l.b_up = file.find_vector("ffn_up.bias", n_ff);
    l.b_down = file.find_vector("ffn_down.bias", hp.n_embd);
    l.rope_freqs = file.find_shared_vector(keys::rope_freqs, hp.n_rot / 2);
    return l;
}

attention_inputs pre(const layer_nodes & layer, ggml_tensor * x) {
    const hparams & hp = layer.hp;
    const layer_weights & w = layer.w;
    const int64_t il = layer.il;
    ggml_tensor * cur = layer.name(layer.norm(x, w.attn_norm), "attn_norm");
    ggml_tensor * q = layer.name(layer.linear(cur, w.wq, w.bq), "Qcur");
    ggml_tensor * k = layer.name(layer.linear(cur, w.wk, w.bk), "Kcur");
    ggml_tensor * v = layer.name(layer.linear(cur, w.wv, w.bv), "Vcur");
    q = layer.heads(q, hp.n_head(il));
    k = layer.heads(k, hp.n_head_kv(il));
    v = layer.heads(v, hp.n_head_kv(il));
    q = layer.name(layer.rope(q, GGML_ROPE_TYPE_NORMAL), "Qcur_rope");
    k = layer.name(layer.rope(k, GGML_ROPE_TYPE_NORMAL), "Kcur_rope");
    return {q, k, v, 1.0f / std::sqrt(static_cast<float>(hp.head_dim(il)))};
}

ggml_tensor * post(const layer_nodes & layer, ggml_tensor * attended, ggml_tensor * x) {
    ggml_context * ctx = layer.ctx;
    const layer_weights & w = layer.w;
    ggml_tensor * cur = layer.name(layer.linear(attended, w.wo, w.bo), "attn_out");
    cur = layer.name(ggml_add(ctx, cur, x), "ffn_inp");

    ggml_tensor * ffn = layer.name(layer.norm(cur, w.ffn_norm), "ffn_norm");
    ggml_tensor * gate = layer.name(layer.linear(ffn, w.ffn_gate, w.b_gate), "ffn_gate");
    ggml_tensor * up = layer.name(layer.linear(ffn, w.ffn_up, w.b_up), "ffn_up");
    ffn = layer.name(ggml_swiglu_split(ctx, gate, up), "ffn_swiglu");
    ffn = layer.name(layer.linear(ffn, w.ffn_down, w.b_down), "ffn_out");
    return layer.name(ggml_add(ctx, ffn, cur), "l_out");
}

}  // namespace

extern const architecture llama;
const architecture llama = {"llama", shape, tensors, pre, post};

}  // namespace livekv
