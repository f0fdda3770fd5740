#pragma once

#include <ggml-cpp.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/gguf_part.h"

namespace livekv {

// One GGUF file, or a model's in several parts, memory-mapped: typed metadata and tensor descriptions. Tensor data
// stays in the mappings. Every method throws livekv::error with the file's name when the content is not what was asked
// for.
class gguf_file {
  public:
    // path: a whole file or any part of one. Checks the whole structure of each: header, metadata, tensor list, and
    // that every tensor's data lies inside its file; and that the parts belong together (gguf_split.h).
    explicit gguf_file(const std::string & path);

    const std::string & path() const { return parts_[0].path(); }  // of the part with the metadata, the first
    std::span<const uint8_t> contents() const;                     // all bytes of a file that is no part
    size_t n_parts() const { return parts_.size(); }
    const std::string & part_path(size_t i) const { return parts_[i].path(); }
    std::span<const uint8_t> part(size_t i) const { return {parts_[i].file.data(), parts_[i].file.size()}; }

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

    // Tensor i of n_tensors(), in the order of the files.
    const ggml_tensor * tensor(int64_t i) const;

    // The tensor's description (type, ne; no data), or null. Valid as long as this object.
    const ggml_tensor * find_tensor(const std::string & name) const;

    // The same, which must exist; shape is ne[] without trailing ones, e.g. {n_embd, n_vocab}.
    const ggml_tensor * get_tensor(const std::string & name, const std::vector<int64_t> & shape) const;

    // Which part the tensor lies in, and where its bytes lie in that mapping, ggml_nbytes(tensor) of them.
    size_t part_of(const ggml_tensor * tensor) const;
    const uint8_t * tensor_data(const ggml_tensor * tensor) const;

    // Lets the tensor's pages leave memory: its data was copied to where it is used.
    void release(const ggml_tensor * tensor) const;

  private:
    struct entry {
        const ggml_tensor * description;
        size_t part;
        int64_t id;  // in that part
    };

    int64_t key_id(const std::string & key) const;  // -1 when absent
    int64_t array_id(const std::string & key, gguf_type type) const;
    const gguf_context * metadata() const { return parts_[0].gguf.get(); }
    const entry * find_entry(std::string_view name) const;

    std::vector<gguf_part> parts_;
    std::vector<entry> tensors_;
    std::unordered_map<std::string_view, size_t> by_name_;  // names lie in the parts' contexts
};

}  // namespace livekv
