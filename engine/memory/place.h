#pragma once

#include <cstddef>

namespace livekv {

// Where bytes live. The host's memory and the GPU's are two objects of this type; what holds bytes refers to one.
class place {
  public:
    virtual ~place() = default;

    // Throws std::bad_alloc.
    virtual void * take(size_t bytes) = 0;
    // What take gave for as many bytes.
    virtual void give_back(void * p, size_t bytes) noexcept = 0;

    virtual bool on_device() const = 0;
};

place & host_memory();
place & device_memory();

// Between two places whose last use of the bytes is over; waits.
void copy_bytes(const place & to, void * target, const place & from, const void * source, size_t bytes);

}  // namespace livekv
