#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "memory/place.h"

namespace livekv {

// Bytes of one chunk of one layer, 64-byte aligned and never changed once they are filled, so that sequences share
// them.
class page {
  public:
    // Not initialized. Throws std::bad_alloc. The place outlives the page.
    page(place & where, size_t bytes)
        : data_(static_cast<uint8_t *>(where.take(bytes)), giver{&where, bytes}), bytes_(bytes) {}

    uint8_t * data() { return data_.get(); }
    const uint8_t * data() const { return data_.get(); }
    template <typename T>
    const T * as() const {
        return reinterpret_cast<const T *>(data_.get());
    }
    template <typename T>
    T * as() {
        return reinterpret_cast<T *>(data_.get());
    }
    size_t bytes() const { return bytes_; }
    place & where() const { return *data_.get_deleter().where; }

    std::shared_ptr<page> copy(place & to) const {
        auto other = std::make_shared<page>(to, bytes_);
        copy_bytes(to, other->data(), where(), data(), bytes_);
        return other;
    }

  private:
    struct giver {
        place * where;
        size_t bytes;
        void operator()(uint8_t * p) const { where->give_back(p, bytes); }
    };
    std::unique_ptr<uint8_t, giver> data_;
    size_t bytes_;
};

}  // namespace livekv
