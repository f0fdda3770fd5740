// Phi 3: LLaMA's layer with queries, keys and values from one matrix and gate and up from another, rotary positions
// over halves of a head or of its first channels, and a window in every layer where the file has one.

#include "model/arch/common_shape.h"
#include "model/arch/decoder_layer.h"

namespace livekv {

namespace {

void shape(arch_keys & keys, hparams & hp) {
    refuse_experts(keys);
    read_sizes(keys, hp);
    read_rms_norm(keys, hp);
    read_rope(keys, hp, rope_order::neox);
    read_long_rope(keys, hp);
    const int64_t window = keys.find_u32(keys::sliding_window).value_or(0);
    for (layer_shape & layer : hp.layers) {
        layer.window = window < hp.n_ctx_train ? window : 0;
    }
}

layer_weights tensors(const layer_tensors & file, const hparams & hp, int64_t il) {
    layer_weights l;
    l.attn_norm = file.vector("attn_norm.weight", hp.n_embd);
    l.wqkv = file.matrix("attn_qkv.weight", hp.n_embd, hp.n_embd_q(il) + 2 * hp.n_embd_kv(il));
    l.wo = file.matrix("attn_output.weight", hp.n_embd_q(il), hp.n_embd);
    l.ffn_norm = file.vector("ffn_norm.weight", hp.n_embd);
    l.ffn_up = file.matrix("ffn_up.weight", hp.n_embd, 2 * hp.n_ff(il));  // gate, then up
    l.ffn_down = file.matrix("ffn_down.weight", hp.n_ff(il), hp.n_embd);
    file.fetch_rope(hp, il, l);
    return l;
}

attention_inputs pre(const layer_nodes & layer, ggml_tensor * x) {
    ggml_context * ctx = layer.ctx;
    const hparams & hp = layer.hp;
    const int64_t n_head_kv = hp.n_head_kv(layer.il);
    ggml_tensor * cur = layer.name(layer.norm(x, layer.w.attn_norm), "attn_norm");
    ggml_tensor * qkv = layer.name(layer.linear(cur, layer.w.wqkv, nullptr), "QKVcur");
    // Rows first ... first + n - 1 of qkv [n_embd_q + 2 n_embd_kv, n_rows] in heads, [head_dim, n_head(_kv), n_rows].
    const auto part = [&](int64_t first, int64_t n) {
        const int64_t d = hp.head_dim(layer.il);
        const size_t value = sizeof(float);
        return ggml_view_3d(ctx, qkv, d, n, qkv->ne[1], static_cast<size_t>(d) * value, qkv->nb[1],
                            static_cast<size_t>(first * d) * value);
    };
    const int64_t n_head = hp.n_head(layer.il);
    ggml_tensor * v = ggml_cont(ctx, part(n_head + n_head_kv, n_head_kv));
    return turn(layer, {part(0, n_head), part(n_head, n_head_kv), layer.name(v, "Vcur"), 1.0f});
}

ggml_tensor * post(const layer_nodes & layer, ggml_tensor * attended, ggml_tensor * x) {
    ggml_context * ctx = layer.ctx;
    ggml_tensor * cur = layer.name(ggml_add(ctx, attention_output(layer, attended), x), "ffn_inp");
    ggml_tensor * ffn = layer.name(layer.norm(cur, layer.w.ffn_norm), "ffn_norm");
    ffn = layer.name(ggml_swiglu(ctx, layer.linear(ffn, layer.w.ffn_up, nullptr)), "ffn_swiglu");
    ffn = layer.name(layer.linear(ffn, layer.w.ffn_down, nullptr), "ffn_out");
    return layer.name(ggml_add(ctx, ffn, cur), "l_out");
}

}  // namespace

extern const architecture phi3;
const architecture phi3 = {"phi3", shape, tensors, pre, post};

}  // namespace livekv
