// Included in front of the files of ggml that allocate (CMakeLists.txt): they take from a loan (ggml-loan.h) what the
// system refuses. C++ answers them as they expect, with a spare of the loan where there is no memory, or null.
#ifndef LIVEKV_GGML_MEMORY_H
#define LIVEKV_GGML_MEMORY_H

#ifdef __cplusplus
#include <stdlib.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <vector>
extern "C" {
#else
#include <stdlib.h>
#endif

void * livekv_ggml_malloc(size_t n);
void * livekv_ggml_calloc(size_t n, size_t each);
void * livekv_ggml_realloc(void * p, size_t n);
int livekv_ggml_posix_memalign(void ** p, size_t alignment, size_t n);
void livekv_ggml_free(void * p);
void * livekv_ggml_spare(size_t n);

#ifdef __cplusplus
}
struct livekv_ggml_new {};
inline constexpr livekv_ggml_new livekv_ggml_lending{};
inline void * operator new(std::size_t n, livekv_ggml_new) noexcept {
    void * p = ::operator new(n, std::nothrow);
    return p ? p : livekv_ggml_spare(n);
}
inline void * operator new[](std::size_t n, livekv_ggml_new) noexcept {
    return ::operator new[](n, std::nothrow);
}
inline void operator delete(void * p, livekv_ggml_new) noexcept {
    ::operator delete(p);
}
inline void operator delete[](void * p, livekv_ggml_new) noexcept {
    ::operator delete[](p);
}
#define new new (livekv_ggml_lending)
#else
#define posix_memalign(p, alignment, n) livekv_ggml_posix_memalign(p, alignment, n)
#endif

#define malloc(n) livekv_ggml_malloc(n)
#define calloc(n, each) livekv_ggml_calloc(n, each)
#define realloc(p, n) livekv_ggml_realloc(p, n)
#define free livekv_ggml_free  // and members of structures by that name

#endif
