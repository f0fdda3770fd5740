#pragma once

#include <ggml-cpp.h>

#include <cstdint>
#include <vector>

#include "model/gguf_file.h"
#include "model/hparams.h"

namespace livekv {

// Shapes in ggml's order: ne[0] is the row length, i.e. what a matrix is multiplied over.
struct layer_weights {
    ggml_tensor * attn_norm = nullptr;  // [n_embd]
    ggml_tensor * wq = nullptr;         // [n_embd, n_head*head_dim]
    ggml_tensor * wk = nullptr;         // [n_embd, n_head_kv*head_dim]
    ggml_tensor * wv = nullptr;         // [n_embd, n_head_kv*head_dim]
    ggml_tensor * wo = nullptr;         // [n_head*head_dim, n_embd]
    ggml_tensor * bq = nullptr;         // [n_head*head_dim], null in most models; so are the next three
    ggml_tensor * bk = nullptr;         // [n_head_kv*head_dim]
    ggml_tensor * bv = nullptr;         // [n_head_kv*head_dim]
    ggml_tensor * bo = nullptr;         // [n_embd]
    ggml_tensor * ffn_norm = nullptr;   // [n_embd]
    ggml_tensor * ffn_gate = nullptr;   // [n_embd, n_ff]
    ggml_tensor * ffn_up = nullptr;     // [n_embd, n_ff]
    ggml_tensor * ffn_down = nullptr;   // [n_ff, n_embd]
    ggml_tensor * b_gate = nullptr;     // [n_ff], null in most models; so are the next two
    ggml_tensor * b_up = nullptr;       // [n_ff]
    ggml_tensor * b_down = nullptr;     // [n_embd]
    ggml_tensor * rope_freqs = nullptr; // [n_rot/2] frequency divisors (llama3 scaling), or null; on the layer's device
    bool on_gpu = false;
};

// A model's weights where they are computed with: on the CPU in ggml's repacked buffers where it has a layout for the
// type, otherwise straight in the file's mapping; on the GPU for the last n_gpu_layers layers (and the output matrix
// when n_gpu_layers exceeds n_layer). Immutable after construction; the file must outlive it.
class weights {
  public:
    // Throws livekv::error for missing or misshapen tensors, tensors that have no place in the model, types ggml cannot
    // compute with, and too little memory.
    weights(const gguf_file & file, const hparams & hp, int64_t n_gpu_layers);

    ggml_tensor * token_embd = nullptr;   // [n_embd, n_vocab]
    ggml_tensor * output_norm = nullptr;  // [n_embd]
    ggml_tensor * output = nullptr;       // [n_embd, n_vocab]
    std::vector<layer_weights> layers;    // [n_layer]
    int64_t n_gpu_layers = 0;             // how many really are there
    uint64_t n_params = 0;
    size_t bytes = 0;  // of all tensors, as stored

  private:
    std::vector<ggml_context_ptr> contexts_;
    std::vector<ggml_backend_buffer_ptr> buffers_;
};

// The first GPU ggml offers, or null.
ggml_backend_dev_t find_gpu();

}  // namespace livekv
