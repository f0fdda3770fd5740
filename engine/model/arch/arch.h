#pragma once

#include <vector>

#include "model/arch/arch_keys.h"
#include "model/arch/layer_nodes.h"
#include "model/arch/layer_tensors.h"
#include "model/hparams.h"
#include "model/layer_weights.h"

namespace livekv {

// What a layer hands to attention: f32 [head_dim, n_head, n_rows], and with n_head_kv heads for k and v, after RoPE.
struct attention_inputs {
    ggml_tensor * q;
    ggml_tensor * k;
    ggml_tensor * v;
    float scale;                         // of the products of queries and keys
    ggml_tensor * k_unturned = nullptr;  // k before RoPE
};

// A kind of model: what its metadata says, which weights it has, and what a layer computes around attention, which with
// the caches is no concern of it. One file each, of the architecture's name.
struct architecture {
    const char * name;  // general.architecture

    // Fills hp but for arch, name and n_vocab. Throws livekv::error for what cannot be computed.
    void (*shape)(arch_keys & keys, hparams & hp);

    // The weights of layer il, all of which must be of the shape's.
    layer_weights (*tensors)(const layer_tensors & file, const hparams & hp, int64_t il);

    // Before attention: x f32 [n_embd, n_rows].
    attention_inputs (*pre)(const layer_nodes & layer, ggml_tensor * x);

    // After attention: attended f32 [n_head*head_dim, n_rows] and the layer's x [n_embd, n_rows], of the same rows, to
    // the next layer's x.
    ggml_tensor * (*post)(const layer_nodes & layer, ggml_tensor * attended, ggml_tensor * x);
};

// All that are supported.
const std::vector<const architecture *> & architectures();

}  // namespace livekv
