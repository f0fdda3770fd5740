#include "model/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "error.h"

namespace livekv {

mapped_file::mapped_file(const std::string & path) : path_(path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // of a FIFO, nobody waits for its writer
    if (fd < 0) {
        fail("cannot open '", path, "': ", std::strerror(errno));
    }
    struct stat info = {};
    const bool known = ::fstat(fd, &info) == 0;
    if (!known || !S_ISREG(info.st_mode) || info.st_size == 0) {
        ::close(fd);
        const bool folder = known && S_ISDIR(info.st_mode);
        const bool empty = known && S_ISREG(info.st_mode);
        fail("'", path, "' ", empty ? "is empty" : folder ? "is not a file but a folder" : "is not a file");
    }
    size_ = static_cast<size_t>(info.st_size);
    void * address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
    const int reason = errno;
    ::close(fd);
    if (address == MAP_FAILED) {
        fail("cannot map '", path, "': ", std::strerror(reason));
    }
    data_ = static_cast<const uint8_t *>(address);
#ifdef MADV_HUGEPAGE
    // Weights are read from end to end for every token: with 2 MiB pages a tenth faster where memory is the limit. Only
    // what is not in the page cache yet comes in so, and only where the file system can; elsewhere nothing changes.
    ::madvise(address, size_, MADV_HUGEPAGE);
#endif
}

mapped_file::~mapped_file() {
    if (data_) {
        ::munmap(const_cast<uint8_t *>(data_), size_);
    }
}

mapped_file::mapped_file(mapped_file && other) noexcept
    : path_(std::move(other.path_)), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

void mapped_file::release(const uint8_t * begin, size_t n_bytes) const {
    const uintptr_t page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
    const uintptr_t first = (reinterpret_cast<uintptr_t>(begin) + page - 1) / page * page;
    const uintptr_t last = (reinterpret_cast<uintptr_t>(begin) + n_bytes) / page * page;
    if (first < last) {
        ::madvise(reinterpret_cast<void *>(first), last - first, MADV_DONTNEED);
    }
}

}  // namespace livekv
