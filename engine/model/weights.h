#pragma once

#include <ggml-cpp.h>

#include <cstdint>
#include <vector>

#include "model/gguf_file.h"
#include "model/hparams.h"
#include "model/layer_weights.h"
#include "model/packed_weights.h"

namespace livekv {

// What products read: matrices packed for our own where there are some for the type (kernels/products.h), or as the
// file has them, by ggml, or the numbers in f32 that they stand for, whose products round nothing.
enum class weight_form { packed, stored, f32 };

// A model's weights where they are computed with: on the CPU in ggml's repacked buffers where it has a layout for the
// type, otherwise straight in the file's mapping; on the GPU for the last n_gpu_layers layers (and the output matrix
// when n_gpu_layers exceeds n_layer). Immutable after construction; the file must outlive it.
class weights {
  public:
    // Throws livekv::error for missing or misshapen tensors, tensors that have no place in the model, types ggml cannot
    // compute with, and too little memory.
    weights(const gguf_file & file, const hparams & hp, int64_t n_gpu_layers, weight_form form);

    ggml_tensor * token_embd = nullptr;   // [n_embd, n_vocab]
    ggml_tensor * output_norm = nullptr;  // [n_embd]
    ggml_tensor * output = nullptr;       // [n_embd, n_vocab]
    std::vector<layer_weights> layers;    // [n_layer]
    int64_t n_gpu_layers = 0;             // how many really are there
    uint64_t n_params = 0;
    size_t bytes = 0;  // of all tensors, as stored

  private:
    packed_weights packed_;
    std::vector<ggml_context_ptr> contexts_;
    std::vector<ggml_backend_buffer_ptr> buffers_;
};

// The first GPU ggml offers, or null.
ggml_backend_dev_t find_gpu();

}  // namespace livekv
