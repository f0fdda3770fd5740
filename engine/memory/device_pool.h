#pragma once

#include <cstddef>

namespace livekv::device_pool {

// The GPU's memory in pieces (memory_pool.h), 256-byte aligned.

// Throws std::bad_alloc.
void * take(size_t bytes);
void give_back(void * p) noexcept;

}  // namespace livekv::device_pool
