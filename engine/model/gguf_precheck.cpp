#include "model/gguf_precheck.h"

#include <gguf.h>

#include <cstring>
#include <string>

#include "error.h"

namespace livekv {

size_t gguf_value_bytes(uint32_t type) {
    switch (type) {
        case GGUF_TYPE_UINT8:
        case GGUF_TYPE_INT8:
        case GGUF_TYPE_BOOL:
            return 1;
        case GGUF_TYPE_UINT16:
        case GGUF_TYPE_INT16:
            return 2;
        case GGUF_TYPE_UINT32:
        case GGUF_TYPE_INT32:
        case GGUF_TYPE_FLOAT32:
            return 4;
        case GGUF_TYPE_UINT64:
        case GGUF_TYPE_INT64:
        case GGUF_TYPE_FLOAT64:
            return 8;
        default:
            return 0;
    }
}

namespace {

// Reads little-endian values front to back; running off the end is an error that names the section.
class cursor {
  public:
    cursor(const uint8_t * data, size_t size) : data_(data), size_(size) {}

    template <typename T>
    T take(const char * section) {
        T value;
        std::memcpy(&value, bytes(sizeof(T), section), sizeof(T));
        return value;
    }

    std::string take_string(const char * section) {
        const uint64_t length = take<uint64_t>(section);
        return {reinterpret_cast<const char *>(bytes(length, section)), length};
    }

    const uint8_t * bytes(uint64_t count, const char * section) {
        if (count > size_ - at_) {
            fail("the file ends in the middle of its ", section);
        }
        const uint8_t * begin = data_ + at_;
        at_ += count;
        return begin;
    }

  private:
    const uint8_t * data_;
    size_t size_;
    size_t at_ = 0;
};

// ggml compares every name with all before it; no model comes near so many, and a file full of them would take hours.
constexpr int64_t max_names = 16384;

void skip_metadata_value(cursor & in, const std::string & key) {
    constexpr const char * section = "metadata";
    uint32_t type = in.take<uint32_t>(section);
    uint64_t count = 1;
    const bool is_array = type == GGUF_TYPE_ARRAY;
    if (is_array) {
        type = in.take<uint32_t>(section);
        count = in.take<uint64_t>(section);
    }
    if (key == GGUF_KEY_GENERAL_ALIGNMENT && (is_array || type != GGUF_TYPE_UINT32)) {
        fail("key '", key, "' must be one uint32");
    }
    if (type == GGUF_TYPE_STRING) {
        for (uint64_t i = 0; i < count; ++i) {
            in.take_string(section);
        }
        return;
    }
    const size_t each = gguf_value_bytes(type);
    if (each == 0) {
        fail("key '", key, "' has the unknown value type ", type);
    }
    if (count > UINT64_MAX / each) {
        fail("key '", key, "' has ", count, " values, more than a file can hold");
    }
    in.bytes(count * each, section);
}

}  // namespace

void precheck_gguf(const uint8_t * data, size_t size) {
    cursor in(data, size);
    if (std::memcmp(in.bytes(4, "header"), GGUF_MAGIC, 4) != 0) {
        fail("not a GGUF file (it does not start with 'GGUF')");
    }
    const uint32_t version = in.take<uint32_t>("header");
    if (const uint32_t swapped = __builtin_bswap32(version); swapped >= 1 && swapped <= GGUF_VERSION) {
        fail(
            "the file is big-endian, and only little-endian ones are read (gguf-convert-endian of the Python package "
            "gguf turns one into the other)");
    }
    if (version < 2 || version > GGUF_VERSION) {
        fail("GGUF version ", version, " is not supported (2 and ", GGUF_VERSION, " are)");
    }
    const int64_t n_tensors = in.take<int64_t>("header");
    const int64_t n_keys = in.take<int64_t>("header");
    if (n_tensors < 0 || n_keys < 0 || n_tensors > max_names || n_keys > max_names) {
        fail("the file claims ", n_tensors, " tensors and ", n_keys, " metadata keys; at most ", max_names,
             " of each are supported");
    }
    for (int64_t i = 0; i < n_keys; ++i) {
        const std::string key = in.take_string("metadata");
        if (key.empty()) {
            fail("metadata key ", i, " has no name");
        }
        if (key.find('\0') != std::string::npos) {
            fail("the name of metadata key ", i, " has a zero byte");
        }
        skip_metadata_value(in, key);
    }
    for (int64_t i = 0; i < n_tensors; ++i) {
        constexpr const char * section = "tensor list";
        const std::string name = in.take_string(section);
        const uint32_t n_dims = in.take<uint32_t>(section);
        if (n_dims > GGML_MAX_DIMS) {
            fail("tensor '", name, "' has ", n_dims, " dimensions");
        }
        for (uint32_t d = 0; d < n_dims; ++d) {
            if (in.take<int64_t>(section) < 1) {
                fail("tensor '", name, "' has an empty dimension");
            }
        }
        if (const uint32_t type = in.take<uint32_t>(section); type >= GGML_TYPE_COUNT) {
            fail("tensor '", name, "' has the unknown type ", type);
        }
        in.take<uint64_t>(section);  // offset
    }
}

}  // namespace livekv
