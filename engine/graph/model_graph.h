#pragma once

#include <ggml-cpp.h>

#include "model/hparams.h"
#include "model/weights.h"
#include "run/pass.h"

namespace livekv {

// The tensors a graph's caller fills before it runs and reads after.
struct model_graph {
    ggml_cgraph * graph = nullptr;
    ggml_tensor * tokens = nullptr;     // i32 [n_rows], null where the pass does not begin with the first layer:
    ggml_tensor * rows_in = nullptr;    // f32 [n_embd, n_rows], what the layer before gave
    ggml_tensor * positions = nullptr;  // i32 [n_rows]
    ggml_tensor * outputs = nullptr;    // i32 [n_outputs], null when they are the last rows
    ggml_tensor * logits = nullptr;     // f32 [n_vocab, n_outputs], null when n_outputs is 0
    ggml_tensor * rows_out = nullptr;   // f32 [n_embd, n_rows], where the pass does not end with the last layer
};

// A model's graph: embedding, every layer of its architecture around the runner's attention, logits; where the pass is
// over some of the layers, of these. It is of the pass over n_rows tokens that the runner has begun, with logits for
// n_outputs of the rows: the last ones, or those an input names. is_long: hparams::is_long of its sequences. With
// n_outputs = 0 the last layer only fills the caches.
model_graph build_model_graph(ggml_context * ctx, const hparams & hp, const weights & w, pass_runner & runner,
                              int64_t n_rows, int64_t n_outputs, bool outputs_are_last, bool is_long);

// The most nodes such a graph has for a pass with so many dense parts.
size_t model_graph_nodes(const hparams & hp, size_t n_dense_parts);

// A ggml context (metadata only) with room for one such graph. Throws livekv::error on too little memory.
ggml_context_ptr make_graph_context(const hparams & hp, size_t n_dense_parts);

}  // namespace livekv
