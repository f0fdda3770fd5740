#pragma once

#include <ggml-cpp.h>

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "model/gguf_file.h"
#include "model/packed_weights.h"

namespace livekv {

// What is done with a tensor: rows are looked up, columns are multiplied with it, or it is a vector of f32.
enum class tensor_use { lookup, matrix, vector };

// Decides for each tensor where it lives, then allocates and fills the buffers in one go.
class tensor_loader {
  public:
    // gpu: null when there is none. Contexts and buffers receive what the tensors live in; they and file outlive this.
    // packed: receives the matrices that our own products are for; null: ggml multiplies with all of them. as_f32: all
    // of them become f32.
    tensor_loader(const gguf_file & file, ggml_backend_dev_t gpu, packed_weights * packed, bool as_f32,
                  std::vector<ggml_context_ptr> & contexts, std::vector<ggml_backend_buffer_ptr> & buffers);

    // The tensor, to be filled; the same one when it is asked for twice. Throws livekv::error when it is missing, has
    // another shape, or a type that ggml cannot compute with.
    ggml_tensor * add(const std::string & name, const std::vector<int64_t> & shape, tensor_use purpose, bool on_gpu);

    // The same, or null when the file has none of the name.
    ggml_tensor * add_optional(const std::string & name, const std::vector<int64_t> & shape, tensor_use purpose,
                               bool on_gpu);

    // A vector f32 [n] that is computed, not in the file; the same one when it is asked for twice by its name.
    ggml_tensor * add_values(const std::string & name, const std::vector<float> & values, bool on_gpu);

    // A tensor of the file that was read already, or that it has none of: it counts as used.
    void note_used(const char * name);

    // The tensors of the file that became weights.
    const std::set<const ggml_tensor *> & used() const { return used_; }

    // After the last one. Throws livekv::error on too little memory.
    void fill();

  private:
    void check_type(const ggml_tensor * source, tensor_use purpose) const;
    ggml_backend_buffer_type_t choose_on_cpu(const ggml_tensor * source, tensor_use purpose) const;
    ggml_context * context(ggml_backend_buffer_type_t buft);
    ggml_context * new_context();
    bool can_be_mapped(ggml_context * ctx) const;
    void map(ggml_context * ctx);
    void allocate(ggml_context * ctx, ggml_backend_buffer_type_t buft);
    void copy_as_f32(ggml_tensor * tensor, const ggml_tensor * source) const;

    const gguf_file & file_;
    packed_weights * packed_;
    bool as_f32_;
    std::vector<ggml_context_ptr> & contexts_;
    std::vector<ggml_backend_buffer_ptr> & buffers_;
    ggml_backend_dev_t cpu_;
    ggml_backend_dev_t gpu_;
    std::vector<ggml_backend_buffer_type_t> cpu_extra_;
    std::map<ggml_backend_buffer_type_t, ggml_context *> by_type_;
    std::map<std::pair<ggml_backend_buffer_type_t, std::string>, ggml_tensor *> placed_;
    std::vector<std::pair<ggml_tensor *, const ggml_tensor *>> sources_;  // (ours, the file's)
    struct computed {
        ggml_tensor * tensor;
        std::vector<float> values;
    };
    std::map<ggml_backend_buffer_type_t, ggml_context *> computed_by_type_;  // apart: the file has no bytes of theirs
    std::vector<computed> computed_;
    std::set<const ggml_tensor *> used_;
};

}  // namespace livekv
