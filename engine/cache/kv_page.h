#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "cache/device_pool.h"
#include "cache/host_pool.h"
#include "kernels/cuda/kernels.h"

namespace livekv {

// Memory of one chunk of one layer, keys or values of all kv heads, 64-byte aligned and never changed once it is
// filled, so that forks share it; in the host's memory or the GPU's.
class kv_page {
  public:
    explicit kv_page(size_t bytes, bool on_device = false)
        : data_(static_cast<uint8_t *>(on_device ? device_pool::take(bytes) : host_pool::take(bytes)),
                free_memory{on_device, bytes}),
          bytes_(bytes) {}

    uint8_t * data() { return data_.get(); }
    const uint8_t * data() const { return data_.get(); }
    size_t bytes() const { return bytes_; }
    bool on_device() const { return data_.get_deleter().on_device; }

    // A copy of it in the host's memory or the GPU's.
    std::shared_ptr<kv_page> copy(bool to_device) const {
        auto page = std::make_shared<kv_page>(bytes_, to_device);
        device::copy_between(page->data(), to_device, data(), on_device(), bytes_);
        return page;
    }

  private:
    struct free_memory {
        bool on_device;
        size_t bytes;
        void operator()(uint8_t * p) const { on_device ? device_pool::give_back(p) : host_pool::give_back(p, bytes); }
    };
    std::unique_ptr<uint8_t, free_memory> data_;
    size_t bytes_;
};

// f16 values that grow, in the host's memory or, once told so, the GPU's.
class row_buffer {
  public:
    row_buffer() = default;
    row_buffer(std::vector<uint16_t> values) : host_(std::move(values)) {}  // implicit: restored rows

    row_buffer(const row_buffer & other) : host_(other.host_) { take(other); }
    row_buffer & operator=(const row_buffer & other) {
        host_ = other.host_;
        page_.reset();
        take(other);
        return *this;
    }
    row_buffer(row_buffer &&) = default;
    row_buffer & operator=(row_buffer &&) = default;

    uint16_t * data() { return page_ ? reinterpret_cast<uint16_t *>(page_->data()) : host_.data(); }
    const uint16_t * data() const { return page_ ? reinterpret_cast<const uint16_t *>(page_->data()) : host_.data(); }
    size_t size() const { return page_ ? page_->bytes() / 2 : host_.size(); }
    bool empty() const { return size() == 0; }
    bool on_device() const { return page_ != nullptr; }
    size_t bytes() const { return page_ ? page_->bytes() : 2 * host_.capacity(); }

    // Room for n values, exactly, unlike a vector's own growth; what is in it stays.
    void reserve(size_t n, bool on_device) {
        if (size() >= n) {
            return;
        }
        if (!on_device) {
            host_.reserve(n);
            host_.resize(n);
            return;
        }
        auto page = std::make_unique<kv_page>(2 * n, true);
        if (page_) {
            device::copy_between(page->data(), true, page_->data(), true, page_->bytes());
        }
        page_ = std::move(page);
    }

    void release() {
        host_ = std::vector<uint16_t>();  // = {} would keep the memory
        page_.reset();
    }

    // The same values in the host's memory or the GPU's.
    row_buffer copy(bool to_device) const {
        row_buffer other;
        if (!empty()) {
            other.reserve(size(), to_device);
            device::copy_between(other.data(), to_device, data(), on_device(), 2 * size());
        }
        return other;
    }

  private:
    void take(const row_buffer & other) {
        if (other.page_) {
            *this = other.copy(true);
        }
    }

    std::vector<uint16_t> host_;
    std::unique_ptr<kv_page> page_;
};

}  // namespace livekv
