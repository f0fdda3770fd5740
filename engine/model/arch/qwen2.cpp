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

}  // namespace

extern const architecture qwen2;
const architecture qwen2 = {"qwen2", shape, plain_tensors, plain_pre, plain_post};

}  // namespace livekv
