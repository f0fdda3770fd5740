#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "error.h"
#include "model/gguf_file.h"

namespace livekv {

// The metadata of a file's architecture: key "attention.head_count" is "<architecture>.attention.head_count" there.
// Remembers what was asked for, there or not: what a file holds beyond that may change what the model computes
// (leftovers.h). Every method throws livekv::error with the file's name and the key for a value of another type.
class arch_keys {
  public:
    // architecture: its name; file outlives this.
    arch_keys(const gguf_file & file, const std::string & architecture) : file_(file), prefix_(architecture + ".") {}

    const gguf_file & file() const { return file_; }
    const std::string & prefix() const { return prefix_; }

    float get_f32(const char * key) { return file_.get_f32(ask(key)); }
    std::optional<uint32_t> find_u32(const char * key) { return file_.find_u32(ask(key)); }
    std::optional<float> find_f32(const char * key) { return file_.find_f32(ask(key)); }
    std::optional<std::string> find_string(const char * key) { return file_.find_string(ask(key)); }

    // A number from 1 to max; where the key is absent the other one, or, without one, an error.
    int64_t get_size(const char * key, uint32_t max, std::optional<int64_t> otherwise = {});

    // The same of a number that some files give for each layer, as an array [n_layer] of equal ones.
    int64_t get_size_of_layers(const char * key, int64_t n_layer, uint32_t max, std::optional<int64_t> otherwise = {});

    // [n_layer]: each n-th layer, where the key is a number n, or absent and `otherwise` is one; the layers at 0, where
    // it is an array [n_layer] of 0 and 1.
    std::vector<bool> get_layer_pattern(const char * key, int64_t n_layer, uint32_t otherwise);

    // Whether one of these methods was called with the key, which is a whole one with its prefix.
    bool asked_for(const std::string & whole_key) const { return asked_.contains(whole_key); }

    // Throws livekv::error: what is wrong with a key.
    template <typename... Args>
    [[noreturn]] void refuse(const char * key, const Args &... what) const {
        fail("'", file_.path(), "': key '", prefix_, key, "' is ", what...);
    }

  private:
    const std::string & ask(const char * key) { return *asked_.insert(prefix_ + key).first; }
    int64_t in_range(const char * key, uint32_t value, uint32_t max) const;

    const gguf_file & file_;
    std::string prefix_;
    std::set<std::string> asked_;
};

}  // namespace livekv
