#pragma once

#include <ggml.h>

namespace livekv {

// One layer's weights: what the architectures' layers are made of, null where the model's has none. Shapes in ggml's
// order: ne[0] is the row length, i.e. what a matrix is multiplied over.
struct layer_weights {
    ggml_tensor * attn_norm = nullptr;  // [n_embd]
    ggml_tensor * wq = nullptr;         // [n_embd, n_head*head_dim]
    ggml_tensor * wk = nullptr;         // [n_embd, n_head_kv*head_dim]
    ggml_tensor * wv = nullptr;         // [n_embd, n_head_kv*head_dim]
    ggml_tensor * wqkv = nullptr;    // [n_embd, (n_head + 2*n_head_kv)*head_dim], the three in one; null in most models
    ggml_tensor * wo = nullptr;      // [n_head*head_dim, n_embd]
    ggml_tensor * bq = nullptr;      // [n_head*head_dim], null in most models; so are the next three
    ggml_tensor * bk = nullptr;      // [n_head_kv*head_dim]
    ggml_tensor * bv = nullptr;      // [n_head_kv*head_dim]
    ggml_tensor * bo = nullptr;      // [n_embd]
    ggml_tensor * q_norm = nullptr;  // [head_dim], of each head's queries and keys; null in most models
    ggml_tensor * k_norm = nullptr;  // [head_dim]
    ggml_tensor * attn_post_norm = nullptr;  // [n_embd], of attention's output; null in most models, as ffn_post_norm
    ggml_tensor * ffn_norm = nullptr;        // [n_embd]
    ggml_tensor * ffn_post_norm = nullptr;   // [n_embd], of the feed-forward's output
    ggml_tensor * ffn_gate = nullptr;        // [n_embd, n_ff]
    ggml_tensor * ffn_up = nullptr;          // [n_embd, n_ff]
    ggml_tensor * ffn_down = nullptr;        // [n_ff, n_embd]
    ggml_tensor * b_gate = nullptr;          // [n_ff], null in most models; so are the next two
    ggml_tensor * b_up = nullptr;            // [n_ff]
    ggml_tensor * b_down = nullptr;          // [n_embd]
    ggml_tensor * rope_divisors = nullptr;   // [head_dim/2] of rotation frequencies (rope/rope.h), null where all are 1
    ggml_tensor * long_rope_divisors = nullptr;  // the same of sequences that hparams::long_beyond tells apart
    bool on_gpu = false;
};

}  // namespace livekv
