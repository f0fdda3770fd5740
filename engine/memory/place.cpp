#include "memory/place.h"

#include <cstring>

#include "kernels/cuda/kernels.h"
#include "memory/device_pool.h"
#include "memory/host_pool.h"

namespace livekv {

namespace {

class host : public place {
  public:
    void * take(size_t bytes) override { return host_pool::take(bytes); }
    void give_back(void * p, size_t bytes) noexcept override { host_pool::give_back(p, bytes); }
    bool on_device() const override { return false; }
};

class gpu : public place {
  public:
    void * take(size_t bytes) override { return device_pool::take(bytes); }
    void give_back(void * p, size_t) noexcept override { device_pool::give_back(p); }
    bool on_device() const override { return true; }
};

}  // namespace

place & host_memory() {
    static host * p = new host;  // pages may outlive every other static
    return *p;
}

place & device_memory() {
    static gpu * p = new gpu;
    return *p;
}

void copy_bytes(const place & to, void * target, const place & from, const void * source, size_t bytes) {
    if (bytes == 0) {
        return;
    }
    if (to.on_device() || from.on_device()) {
        device::copy_between(target, to.on_device(), source, from.on_device(), bytes);
    } else {
        std::memcpy(target, source, bytes);
    }
}

}  // namespace livekv
