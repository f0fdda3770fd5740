#pragma once

#include <cstddef>

namespace livekv::device_pool {

// The GPU's memory in pieces. It is asked for in large stretches as the caches grow, never for a context in advance;
// what is given back is used again for pieces of the same size, as a cache's mostly are, and a stretch without any is
// returned. Pieces are 256-byte aligned. Safe to use from several threads.

// Throws std::bad_alloc.
void * take(size_t bytes);
void give_back(void * p) noexcept;

// Bytes of all stretches, for accounting.
size_t bytes_held();

}  // namespace livekv::device_pool
