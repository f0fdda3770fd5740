// Qwen 2 and 2.5: LLaMA's layer with biases on queries, keys and values, and rotary positions over halves of a head.

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
    layer_weights l;
    l.attn_norm = file.vector("attn_norm.weight", hp.n_embd);
    l.ffn_norm = file.vector("ffn_norm.weight", hp.n_embd);
    fetch_attention(file, hp, il, l);
    fetch_feed_forward(file, hp, il, l);
    l.rope_divisors = file.rope_divisors(hp, il);
    return l;
}

}  // namespace

extern const architecture qwen2;
const architecture qwen2 = {"qwen2", shape, tensors, plain_pre, plain_post};

}  // namespace livekv
