#include "atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "error.h"

namespace livekv {

namespace {

constexpr size_t max_write = size_t(1) << 30;  // Linux writes at most 2 GiB at once

// Where a chain of links ends, so that the link stays and what it leads to is replaced.
std::string behind_links(const std::string & path) {
    std::error_code failed;
    const std::filesystem::path end = std::filesystem::canonical(path, failed);
    return failed ? path : end.string();
}

}  // namespace

void atomic_file::refuse(int reason) const {
    fail("cannot write '", path_, "': ", std::strerror(reason));
}

atomic_file::atomic_file(const std::string & path) : path_(path), target_(behind_links(path)) {
    std::error_code unknown;
    const std::filesystem::file_status there = std::filesystem::status(target_, unknown);
    if (std::filesystem::exists(there) && !std::filesystem::is_regular_file(there)) {
        fail("cannot write '", path_, "': it is not a file");
    }
    // A name that is taken was left by a process that died, or belongs to another writer.
    for (int i = 0; fd_ < 0; ++i) {
        temporary_ = target_ + ".tmp" + std::to_string(::getpid());
        temporary_ += i > 0 ? '-' + std::to_string(i) : "";
        fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd_ < 0 && errno != EEXIST) {
            refuse(errno);
        }
    }
}

atomic_file::~atomic_file() {
    if (fd_ >= 0) {
        ::close(fd_);
    }
    if (!temporary_.empty()) {
        ::unlink(temporary_.c_str());
    }
}

void atomic_file::append(std::span<const uint8_t> bytes) {
    while (!bytes.empty()) {
        const ssize_t n = ::write(fd_, bytes.data(), std::min(bytes.size(), max_write));
        if (n >= 0) {
            bytes = bytes.subspan(static_cast<size_t>(n));
        } else if (errno != EINTR) {
            refuse(errno);
        }
    }
}

void atomic_file::overwrite(uint64_t offset, std::span<const uint8_t> bytes) {
    const ssize_t n = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n != static_cast<ssize_t>(bytes.size())) {
        refuse(n < 0 ? errno : EIO);
    }
}

void atomic_file::commit() {
    if (::fsync(fd_) != 0) {
        refuse(errno);
    }
    if (::close(std::exchange(fd_, -1)) != 0 || std::rename(temporary_.c_str(), target_.c_str()) != 0) {
        refuse(errno);
    }
    temporary_.clear();
    // The new name is on the disk once its folder is. Where folders cannot be synced there is nothing more to do.
    const std::string folder = std::filesystem::path(target_).parent_path().string();
    const int dir = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0) {
        ::fsync(dir);
        ::close(dir);
    }
}

}  // namespace livekv
