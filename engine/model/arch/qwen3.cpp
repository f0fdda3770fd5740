// Qwen 3: LLaMA's layer with a norm of every head's queries and keys before their rotary positions, which turn halves
// of a head.

#include "model/arch/common_shape.h"
#include "model/arch/decoder_layer.h"

namespace livekv {

namespace {

void shape(arch_keys & keys, hparams & hp) {
    refuse_experts(keys);
    read_sizes(keys, hp);
    read_rms_norm(keys, hp);
    read_rope(keys, hp, rope_order::neox);
}

layer_weights tensors(const layer_tensors & file, const hparams & hp, int64_t il) {
    layer_weights l = plain_tensors(file, hp, il);
    l.q_norm = file.vector("attn_q_norm.weight", hp.head_dim(il));
    l.k_norm = file.vector("attn_k_norm.weight", hp.head_dim(il));
    return l;
}

attention_inputs pre(const layer_nodes & layer, ggml_tensor * x) {
    return turn(layer, norm_heads(layer, project(layer, layer.name(layer.norm(x, layer.w.attn_norm), "attn_norm"))));
}

}  // namespace

extern const architecture qwen3;
const architecture qwen3 = {"qwen3", shape, tensors, pre, plain_post};

}  // namespace livekv
