// LLaMA, and Mistral within its window: RMS norms, rotary positions over neighbouring channels, grouped queries, and a
// gated feed-forward, each with biases where a file has them.

#include "model/arch/common_shape.h"
#include "model/arch/decoder_layer.h"

namespace livekv {

namespace {

void shape(arch_keys & keys, hparams & hp) {
    refuse_experts(keys);
    read_sizes(keys, hp);
    read_rms_norm(keys, hp);
    read_rope(keys, hp, rope_order::normal);
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

extern const architecture llama;
const architecture llama = {"llama", shape, tensors, plain_pre, plain_post};

}  // namespace livekv
