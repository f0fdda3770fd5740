#pragma once

#include <cstddef>
#include <cstdint>

namespace livekv {

// Walks the header of a GGUF file and throws livekv::error on the few malformed contents that make ggml's own reader
// abort the process, or do what C++ leaves undefined, instead of reporting an error: a key's name that is empty or has
// a zero byte, a tensor dimension of zero, a tensor type or an alignment that is none; and on more names than that
// reader can handle in reasonable time. Everything else is left to that reader. data: the whole file, size bytes.
void precheck_gguf(const uint8_t * data, size_t size);

// Bytes of one metadata value of a fixed-size type (gguf_type); 0 for strings, arrays and unknown types.
size_t gguf_value_bytes(uint32_t type);

}  // namespace livekv
