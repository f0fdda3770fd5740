#pragma once

#include "model/arch/arch.h"

namespace livekv {

// What decoders of LLaMA's kind share: projections to queries, keys and values, and a gated feed-forward. An
// architecture fetches the weights and makes the nodes with these, and adds what is its own.

// wq, wk, wv and wo of layer il, and the biases the file has.
void fetch_attention(const layer_tensors & file, const hparams & hp, int64_t il, layer_weights & l);

// ffn_gate, ffn_up and ffn_down of layer il, and the biases the file has.
void fetch_feed_forward(const layer_tensors & file, const hparams & hp, int64_t il, layer_weights & l);

// Queries, keys and values of normed x [n_embd, n_rows], in heads and before RoPE: [head_dim, n_head(_kv), n_rows].
attention_inputs project(const layer_nodes & layer, ggml_tensor * x);

// q and k with every head normed by q_norm and k_norm, before RoPE.
attention_inputs norm_heads(const layer_nodes & layer, attention_inputs in);

// q and k turned by their rows' positions, and the usual scale of products, 1 / sqrt(head_dim).
attention_inputs turn(const layer_nodes & layer, attention_inputs in);

// wo times attended [n_head*head_dim, n_rows], and its bias: [n_embd, n_rows].
ggml_tensor * attention_output(const layer_nodes & layer, ggml_tensor * attended);

// down(f(gate(x)) * up(x)) of normed x [n_embd, n_rows].
enum class gate_function { silu, gelu };
ggml_tensor * gated(const layer_nodes & layer, ggml_tensor * x, gate_function f);

// All weights of LLaMA's layer.
layer_weights plain_tensors(const layer_tensors & file, const hparams & hp, int64_t il);

// All of LLaMA's layer before attention, and after it: norm, projections, RoPE; residual, norm, feed-forward, residual.
attention_inputs plain_pre(const layer_nodes & layer, ggml_tensor * x);
ggml_tensor * plain_post(const layer_nodes & layer, ggml_tensor * attended, ggml_tensor * x);

}  // namespace livekv
