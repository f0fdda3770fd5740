#pragma once

#include <cstddef>

namespace livekv::host_pool {

// The host's memory in pieces, 64-byte aligned. Large ones lie side by side (memory_pool.h) in the 2 MiB pages that
// Linux has for memory in use: a cache is read from one end to the other for every token, and with pages of 4 KiB much
// of that time goes into finding where each lies. Small ones are malloc's.

// Throws std::bad_alloc.
void * take(size_t bytes);
// `bytes` as when it was taken.
void give_back(void * p, size_t bytes) noexcept;

// Bytes in use that are not malloc's.
size_t bytes_taken();

}  // namespace livekv::host_pool
