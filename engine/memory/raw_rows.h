#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "memory/page.h"

namespace livekv {

// Values that grow, in the host's memory or the device's.
template <typename T>
class growing_buffer {
  public:
    growing_buffer() = default;
    growing_buffer(std::vector<T> values) : host_(std::move(values)) {}  // implicit: restored rows

    growing_buffer(const growing_buffer & other) : host_(other.host_) { take(other); }
    growing_buffer & operator=(const growing_buffer & other) {
        growing_buffer copy(other);
        *this = std::move(copy);
        return *this;
    }
    growing_buffer(growing_buffer &&) = default;
    growing_buffer & operator=(growing_buffer &&) = default;

    T * data() { return page_ ? page_->template as<T>() : host_.data(); }
    const T * data() const { return page_ ? page_->template as<T>() : host_.data(); }
    size_t size() const { return page_ ? page_->bytes() / sizeof(T) : host_.size(); }
    bool empty() const { return size() == 0; }
    size_t bytes() const { return page_ ? page_->bytes() : sizeof(T) * host_.capacity(); }
    place & where() const { return page_ ? page_->where() : host_memory(); }

    // Room for n values, exactly, unlike a vector's own growth; what is in it stays.
    void reserve(size_t n, place & where) {
        if (size() >= n) {
            return;
        }
        if (!where.on_device()) {
            host_.reserve(n);
            host_.resize(n);
            return;
        }
        auto grown = std::make_unique<page>(where, sizeof(T) * n);
        if (page_) {
            copy_bytes(where, grown->data(), where, page_->data(), page_->bytes());
        }
        page_ = std::move(grown);
    }

    void release() noexcept {
        host_ = std::vector<T>();  // = {} would keep the memory
        page_.reset();
    }

    // The first n values in another place, or the same.
    growing_buffer copy(place & to, size_t n) const {
        growing_buffer other;
        if (n > 0) {
            other.reserve(n, to);
            copy_bytes(to, other.data(), where(), data(), sizeof(T) * n);
        }
        return other;
    }

  private:
    void take(const growing_buffer & other) {
        if (other.page_) {
            *this = other.copy(other.where(), other.size());
        }
    }

    std::vector<T> host_;
    std::unique_ptr<page> page_;  // on the device
};

using row_buffer = growing_buffer<uint16_t>;  // f16

// Raw keys and values of consecutive tokens: f16 rows [n_tokens, n_head_kv, head_dim].
struct raw_rows {
    row_buffer k;
    row_buffer v;

    size_t bytes() const { return k.bytes() + v.bytes(); }
    void reserve(size_t n_values, place & where) {
        k.reserve(n_values, where);
        v.reserve(n_values, where);
    }
    void release() noexcept {
        k.release();
        v.release();
    }
    raw_rows copy(place & to, size_t n_values) const { return {k.copy(to, n_values), v.copy(to, n_values)}; }
};

}  // namespace livekv
