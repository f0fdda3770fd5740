#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace livekv {

// Memory of one chunk of one layer, keys or values of all kv heads, 64-byte aligned and never changed once it is
// filled, so that forks share it.
class kv_page {
  public:
    explicit kv_page(size_t bytes)
        : data_(static_cast<uint8_t *>(std::aligned_alloc(64, (bytes + 63) / 64 * 64))), bytes_(bytes) {
        if (!data_) {
            throw std::bad_alloc();
        }
    }

    uint8_t * data() { return data_.get(); }
    const uint8_t * data() const { return data_.get(); }
    size_t bytes() const { return bytes_; }

  private:
    struct free_memory {
        void operator()(uint8_t * p) const { std::free(p); }
    };
    std::unique_ptr<uint8_t, free_memory> data_;
    size_t bytes_;
};

}  // namespace livekv
