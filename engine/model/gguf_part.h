#pragma once

#include <ggml-cpp.h>

#include <cstdint>
#include <optional>
#include <string>

#include "model/mapped_file.h"

namespace livekv {

// One GGUF file on disk, which may be a part of a model: its mapping, metadata and tensor list.
struct gguf_part {
    // Checks the whole structure: header, metadata, tensor list, and that every tensor's data lies inside the file.
    // Throws livekv::error with the file's name.
    explicit gguf_part(const std::string & path);

    const std::string & path() const { return file.path(); }
    int64_t key_id(const std::string & key) const { return gguf_find_key(gguf.get(), key.c_str()); }  // -1: absent

    // An integer of any width; throws livekv::error for other types and for values that do not fit.
    std::optional<uint32_t> find_u32(const std::string & key) const;

    mapped_file file;
    ggml_context_ptr tensors;
    gguf_context_ptr gguf;
};

}  // namespace livekv
