#pragma once

// What the fuzz targets share: which answers to bad input are right, and how much memory and time an input may take.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <string_view>

#include "error.h"

// clang's sanitizer has hooks of the allocator; Debian's gcc comes without their header.
#if defined(__has_feature)
#if __has_feature(address_sanitizer) && __has_include(<sanitizer/allocator_interface.h>)
#define LIVEKV_FUZZ_COUNTS_MEMORY
#endif
#endif
#ifdef LIVEKV_FUZZ_COUNTS_MEMORY
#include <sanitizer/allocator_interface.h>
#endif

namespace fuzz {

inline void require(bool holds, const char * what) {
    if (!holds) {
        std::fprintf(stderr, "fuzz: %s\n", what);
        std::abort();
    }
}

// An error is the right answer to an input; that a contract between our own parts is broken (LIVEKV_ASSERT) is none.
// Messages quote the input, which may say anything.
inline void expected(const livekv::error & problem, const uint8_t * data, size_t size) {
    // LIVEKV_ASSERT says where it stands, which no input does that does not name our files.
    const std::string text = problem.what();
    const std::string_view input(reinterpret_cast<const char *>(data), size);
    const size_t at = text.find(" does not hold (");
    const bool is_broken = at != std::string::npos && text.find("internal error: ") != std::string::npos &&
                           (text.find(".cpp:", at) != std::string::npos || text.find(".h:", at) != std::string::npos) &&
                           input.find(" does not hold (") == std::string_view::npos;
    require(!text.empty(), "an error without a message");
    require(text.find('\n') == std::string::npos, "a message of several lines");
    require(!is_broken, problem.what());
}

// While it lives, the heap may grow by the input's size and 64 MiB, and the process may compute for ten seconds; what
// goes beyond that ends the process. Counts memory with clang's AddressSanitizer only, and processor time instead of
// libFuzzer's seconds on the wall, of which a busy machine takes any number.
class limits {
  public:
    explicit limits(size_t input_bytes) : started_(std::clock()) {
#ifdef LIVEKV_FUZZ_COUNTS_MEMORY
        [[maybe_unused]] static const int installed = __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
        most() = __sanitizer_get_current_allocated_bytes() + input_bytes + (size_t(64) << 20);
#else
        (void)input_bytes;
#endif
    }
    ~limits() {
        most() = SIZE_MAX;
        require(std::clock() - started_ < 10 * CLOCKS_PER_SEC, "ten seconds");
    }
    limits(const limits &) = delete;
    limits & operator=(const limits &) = delete;

  private:
    static size_t & most() {
        static size_t bytes = SIZE_MAX;
        return bytes;
    }

#ifdef LIVEKV_FUZZ_COUNTS_MEMORY
    // The sum is slow to ask for: once in a MiB.
    static void on_malloc(const volatile void *, size_t size) {
        static thread_local size_t since = 0;
        since += size;
        if (most() == SIZE_MAX || since < (size_t(1) << 20)) {
            return;
        }
        since = 0;
        if (__sanitizer_get_current_allocated_bytes() > most()) {
            most() = SIZE_MAX;
            require(false, "more memory than the input's size and 64 MiB");
        }
    }
    static void on_free(const volatile void *) {}
#endif

    std::clock_t started_;
};

}  // namespace fuzz
