#pragma once

#include <ggml-cpp.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/mapped_file.h"

namespace livekv {

// One GGUF file, memory-mapped: typed metadata and tensor descriptions. Tensor data stays in the mapping.
// Every method throws livekv::error with the file's name when the content is not what was asked for.
class gguf_file {
  public:
    // Checks the whole structure: header, metadata, tensor list, and that every tensor's data lies inside the file,
    // which must not be one part of several.
    explicit gguf_file(const std::string & path);

    const std::string & path() const { return file_.path(); }
    uint64_t file_bytes() const { return file_.size(); }
    std::span<const uint8_t> contents() const { return {file_.data(), file_.size()}; }

    bool has(const std::string & key) const;

    // The metadata's keys that begin with prefix, in the order of the file.
    std::vector<std::string> keys_with(const std::string & prefix) const;

    // A metadata value; integers are converted between widths when the value fits.
    uint32_t get_u32(const std::string & key) const;
    float get_f32(const std::string & key) const;
    bool get_bool(const std::string & key) const;
    std::string get_string(const std::string & key) const;

    std::optional<uint32_t> find_u32(const std::string & key) const;
    std::optional<float> find_f32(const std::string & key) const;
    std::optional<bool> find_bool(const std::string & key) const;
    std::optional<std::string> find_string(const std::string & key) const;

    // Key i of n_keys(), in the order of the file.
    int64_t n_keys() const;
    std::string key(int64_t i) const;

    bool is_array(const std::string & key) const;

    // A number, or an array's numbers, of whatever type; booleans are 0 and 1. Nothing for texts and where key is
    // absent.
    std::optional<std::vector<double>> find_numbers(const std::string & key) const;

    // Metadata arrays, of exactly this element type.
    std::vector<std::string> get_strings(const std::string & key) const;
    std::vector<float> get_floats(const std::string & key) const;
    std::vector<int32_t> get_ints(const std::string & key) const;

    int64_t n_tensors() const;

    // Tensor i of n_tensors(), in the order of the file.
    const ggml_tensor * tensor(int64_t i) const;

    // The tensor's description (type, ne; no data), or null. Valid as long as this object.
    const ggml_tensor * find_tensor(const std::string & name) const;

    // The same, which must exist; shape is ne[] without trailing ones, e.g. {n_embd, n_vocab}.
    const ggml_tensor * get_tensor(const std::string & name, const std::vector<int64_t> & shape) const;

    // Where the tensor's bytes lie in the mapping, ggml_nbytes(tensor) of them.
    const uint8_t * tensor_data(const ggml_tensor * tensor) const;

    // Lets the tensor's pages leave memory: its data was copied to where it is used.
    void release(const ggml_tensor * tensor) const { file_.release(tensor_data(tensor), ggml_nbytes(tensor)); }

  private:
    int64_t key_id(const std::string & key) const;  // -1 when absent
    void refuse_parts() const;
    int64_t array_id(const std::string & key, gguf_type type) const;
    uint32_t u32_at(int64_t id) const;

    mapped_file file_;
    ggml_context_ptr tensors_;
    gguf_context_ptr gguf_;
};

}  // namespace livekv
