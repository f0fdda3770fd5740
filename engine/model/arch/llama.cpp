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

}  // namespace

extern const architecture llama;
const architecture llama = {"llama", shape, plain_tensors, plain_pre, plain_post};

}  // namespace livekv
