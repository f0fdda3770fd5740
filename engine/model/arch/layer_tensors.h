#pragma once

#include <cstdint>
#include <string>

#include "model/gguf_keys.h"
#include "model/hparams.h"
#include "model/tensor_loader.h"

namespace livekv {

// The tensors of one layer by their part of the name: "attn_q.weight" is the file's "blk.<il>.attn_q.weight". Throws as
// tensor_loader does.
class layer_tensors {
  public:
    layer_tensors(tensor_loader & load, int64_t il, bool on_gpu) : load_(load), il_(il), on_gpu_(on_gpu) {}

    // What columns are multiplied with, [n_in, n_out].
    ggml_tensor * matrix(const char * part, int64_t n_in, int64_t n_out) const {
        return load_.add(keys::blk(il_, part), {n_in, n_out}, tensor_use::matrix, on_gpu_);
    }

    // f32 [n].
    ggml_tensor * vector(const char * part, int64_t n) const {
        return load_.add(keys::blk(il_, part), {n}, tensor_use::vector, on_gpu_);
    }

    // The same, or null when the file has none.
    ggml_tensor * find_vector(const char * part, int64_t n) const {
        return load_.add_optional(keys::blk(il_, part), {n}, tensor_use::vector, on_gpu_);
    }

    // What layer il's RoPE divides its frequencies by, f32 [n_rot/2], where this layer is computed; null: by 1.
    ggml_tensor * rope_divisors(const hparams & hp, int64_t il) const {
        const size_t which = hp.layers[static_cast<size_t>(il)].rope;
        const std::vector<float> divisors = livekv::rope_divisors(hp.ropes[which]);
        return divisors.empty() ? nullptr
                                : load_.add_values("rope_divisors." + std::to_string(which), divisors, on_gpu_);
    }

  private:
    tensor_loader & load_;
    int64_t il_;
    bool on_gpu_;
};

}  // namespace livekv
