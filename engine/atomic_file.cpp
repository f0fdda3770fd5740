#include "atomic_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <string_view>
#include <utility>

#include "error.h"
#include "file_in_use.h"

namespace livekv {

namespace {

constexpr size_t max_write = size_t(1) << 30;  // Linux writes at most 2 GiB at once

// Where a chain of links ends, so that the link stays and what it leads to is replaced.
std::string behind_links(const std::string & path) {
    const std::unique_ptr<char, void (*)(void *)> end(::realpath(path.c_str(), nullptr), std::free);
    if (!end && errno == ENOMEM) {
        throw std::bad_alloc();
    }
    return end ? end.get() : path;
}

std::string folder_of(const std::string & path) {
    const size_t slash = path.rfind('/');
    return slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
}

constexpr const char * temporary_infix = ".tmp-";  // then the process, and a number where it has several

// What a temporary file will be called; of any other name, nothing.
std::optional<std::string> target_of(const std::string & name) {
    const size_t infix = name.rfind(temporary_infix);
    if (infix == std::string::npos || infix == 0) {
        return std::nullopt;
    }
    const auto is_number = [](std::string_view text) {
        return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
    };
    const std::string_view rest = std::string_view(name).substr(infix + std::string_view(temporary_infix).size());
    const size_t dash = rest.find('-');
    const bool numbered = dash == std::string_view::npos || is_number(rest.substr(dash + 1));
    return is_number(rest.substr(0, dash)) && numbered ? std::optional(name.substr(0, infix)) : std::nullopt;
}

// Whether a file is still what its name leads to.
bool has_name(int fd, const std::string & name) {
    struct stat open_file = {};
    struct stat named = {};
    return ::fstat(fd, &open_file) == 0 && ::stat(name.c_str(), &named) == 0 && open_file.st_dev == named.st_dev &&
           open_file.st_ino == named.st_ino;
}

// False when another process took the file for stale before it was locked, and removes or has removed it. Where files
// cannot be locked nobody does.
bool lock(int fd) {
    struct stat file = {};
    return (::flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) &&
           (::fstat(fd, &file) != 0 || file.st_nlink > 0);
}

// A writer holds its temporary file locked as long as it lives; what can be locked was left by one that was killed.
void remove_unlocked(const std::string & path) {
    const int fd = ::open(path.c_str(), O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0) {
        if (::flock(fd, LOCK_EX | LOCK_NB) == 0 && has_name(fd, path)) {
            ::unlink(path.c_str());
        }
        ::close(fd);
    }
}

void remove_stale(const std::string & target) {
    const std::string folder = folder_of(target);
    const std::string name = target.substr(target.rfind('/') + 1);
    const std::unique_ptr<DIR, int (*)(DIR *)> dir(::opendir(folder.c_str()), ::closedir);
    while (const dirent * const entry = dir ? ::readdir(dir.get()) : nullptr) {
        if (target_of(entry->d_name) == name) {
            remove_unlocked(folder + "/" + entry->d_name);
        }
    }
}

}  // namespace

void atomic_file::refuse(int reason) const {
    fail("cannot write '", path_, "': ", std::strerror(reason));
}

atomic_file::atomic_file(const std::string & path) : path_(path), target_(behind_links(path)) {
    if (target_.empty() || target_.back() == '/') {
        fail("cannot write '", path, "': it names no file");
    }
    struct stat there = {};
    if (::stat(target_.c_str(), &there) == 0) {
        if (!S_ISREG(there.st_mode)) {
            fail("cannot write '", path_, "': it is not a file");
        }
        if (file_in_use::is(there)) {
            fail("cannot write '", path_, "': it is a file that is read here");
        }
    }
    remove_stale(target_);
    for (int i = 0; fd_ < 0; ++i) {  // a name that is taken belongs to a living writer
        temporary_ = target_ + temporary_infix + std::to_string(::getpid());
        temporary_ += i > 0 ? '-' + std::to_string(i) : "";
        fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd_ < 0 && errno != EEXIST) {
            refuse(errno);
        }
        if (fd_ >= 0 && !lock(fd_)) {
            ::close(std::exchange(fd_, -1));
        }
    }
}

atomic_file::~atomic_file() {
    if (!temporary_.empty()) {
        ::unlink(temporary_.c_str());
    }
    if (fd_ >= 0) {
        ::close(fd_);
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

bool atomic_file::remove_abandoned(const std::string & folder, const std::string & entry) {
    if (!target_of(entry)) {
        return false;
    }
    remove_unlocked(folder + "/" + entry);
    return true;
}

void atomic_file::commit(bool sync) {
    const std::string folder = folder_of(target_);
    if (sync && ::fsync(fd_) != 0) {
        refuse(errno);
    }
    if (std::rename(temporary_.c_str(), target_.c_str()) != 0) {
        refuse(errno);
    }
    temporary_.clear();
    ::close(std::exchange(fd_, -1));  // not before: without its lock the temporary file would be called stale
    if (!sync) {
        return;
    }
    // The new name is on the disk once its folder is. Where folders cannot be synced there is nothing more to do.
    const int dir = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0) {
        ::fsync(dir);
        ::close(dir);
    }
}

}  // namespace livekv
