#pragma once

#include <ggml-cpp.h>

#include "cache/kv_cache.h"
#include "model/hparams.h"
#include "model/weights.h"

namespace livekv {

// The tensors a graph's caller fills before it runs and reads after.
struct llama_graph {
    ggml_cgraph * graph = nullptr;
    ggml_tensor * tokens = nullptr;     // i32 [n_tokens]
    ggml_tensor * positions = nullptr;  // i32 [n_tokens]
    ggml_tensor * logits = nullptr;     // f32 [n_vocab, n_outputs], null when n_outputs is 0
};

// The graph of one forward pass over the n_tokens tokens announced to the cache, with logits for the last n_outputs of
// them. With n_outputs = 0 the last layer only fills the cache. Every node is named as llama.cpp names it, so that
// dumps of both can be compared.
llama_graph build_llama_graph(ggml_context * ctx, const hparams & hp, const weights & w, kv_cache & cache,
                              int64_t n_tokens, int64_t n_outputs);

// The most nodes such a graph has.
size_t llama_graph_nodes(const hparams & hp);

// A ggml context (metadata only) with room for one such graph. Throws livekv::error on too little memory.
ggml_context_ptr make_graph_context(const hparams & hp);

}  // namespace livekv
