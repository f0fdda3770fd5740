#pragma once

#include <cstdint>
#include <string>

#include "model/gguf_keys.h"
#include "model/hparams.h"
#include "model/layer_weights.h"
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

    // What layer il's RoPEs divide their frequencies by, f32 [n_rot/2], where this layer is computed; null: by 1.
    void fetch_rope(const hparams & hp, int64_t il, layer_weights & l) const {
        const layer_shape & shape = hp.layers[static_cast<size_t>(il)];
        l.rope_divisors = divisors(hp, shape.rope);
        l.long_rope_divisors = hp.long_beyond > 0 ? divisors(hp, shape.long_rope) : nullptr;
    }

  private:
    // ggml reads one for each pair of a head, also of those that are not turned.
    ggml_tensor * divisors(const hparams & hp, size_t which) const {
        std::vector<float> divisors = livekv::rope_divisors(hp.ropes[which]);
        if (divisors.empty()) {
            return nullptr;
        }
        const int64_t n = hp.head_dim(il_) / 2;
        divisors.resize(static_cast<size_t>(n), 1.0f);
        return load_.add_values("rope_divisors." + std::to_string(which) + "." + std::to_string(n), divisors, on_gpu_);
    }

    tensor_loader & load_;
    int64_t il_;
    bool on_gpu_;
};

}  // namespace livekv
