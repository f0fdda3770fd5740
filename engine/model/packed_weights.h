#pragma once

#include <ggml.h>

#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "kernels/products.h"
#include "model/gguf_file.h"

namespace livekv {

// Matrices in the layout that our own products read (kernels/products.h), in memory of their own.
class packed_weights {
  public:
    packed_weights() = default;
    ~packed_weights();
    packed_weights(packed_weights &&) = delete;  // tensors refer to it

    // How a matrix of a file is packed; none for types that have no kernels, and where this machine's are plain C++,
    // which ggml's beat.
    static std::optional<weight_type> type_of(const ggml_tensor * source);

    // Makes tensor, of the source's type and shape and without data, stand for the packed source.
    void add(ggml_tensor * tensor, const ggml_tensor * source);

    // Packs all that were added, with some threads; what has been packed is given back to the file. Throws
    // livekv::error on too little memory.
    void fill(const gguf_file & file);

  private:
    std::deque<packed_matrix> matrices_;
    std::vector<const ggml_tensor *> sources_;  // of each
    void * memory_ = nullptr;
    size_t bytes_ = 0;
};

// What a tensor stands for, or null when it has data of its own.
const packed_matrix * find_packed(const ggml_tensor * tensor);

}  // namespace livekv
