#include "chunks/chunk_folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <memory>
#include <optional>

#include "atomic_file.h"
#include "error.h"
#include "fork_gate.h"

namespace livekv {

namespace {

constexpr const char * extension = ".kv";
constexpr size_t key_digits = 16;
constexpr int64_t second_ns = 1000000000;

std::optional<uint64_t> key_of(const std::string & name) {
    uint64_t key = 0;
    const bool read = std::sscanf(name.c_str(), "%16" SCNx64, &key) == 1;
    return read && chunk_folder::name_of(key) == name ? std::optional(key) : std::nullopt;
}

}  // namespace

chunk_folder::chunk_folder(const std::string & path, uint64_t limit) : path_(path), limit_(limit) {
    const auto refuse = [&](const char * why) { fail("cannot keep chunks in '", path, "': ", why); };
    if (path.empty()) {
        refuse("it has no name");
    }
    const int reason = ::mkdir(path.c_str(), 0700) == 0 ? 0 : errno;
    struct stat there = {};
    if (::stat(path.c_str(), &there) != 0) {
        refuse(std::strerror(reason == EEXIST ? errno : reason));
    }
    if (!S_ISDIR(there.st_mode)) {
        refuse("it is not a folder");
    }
    shrink();
    const std::unique_ptr<DIR, int (*)(DIR *)> dir(::opendir(path.c_str()), ::closedir);
    while (const dirent * const entry = dir ? ::readdir(dir.get()) : nullptr) {
        atomic_file::remove_abandoned(path, entry->d_name);
    }
}

std::string chunk_folder::name_of(uint64_t key) {
    char name[key_digits + 1];
    std::snprintf(name, sizeof(name), "%016" PRIx64, key);
    return std::string(name) + extension;
}

std::string chunk_folder::path_of(uint64_t key) const {
    return path_ + "/" + name_of(key);
}

chunk_folder::found chunk_folder::look(uint64_t key) const {
    const std::string path = path_of(key);
    struct stat there = {};
    if (::lstat(path.c_str(), &there) != 0) {
        return errno == ENOENT ? found::nothing : found::unreadable;
    }
    return S_ISREG(there.st_mode) && ::access(path.c_str(), R_OK) == 0 ? found::file : found::unreadable;
}

uint64_t chunk_folder::bytes_of(uint64_t key) const {
    struct stat there = {};
    return ::lstat(path_of(key).c_str(), &there) == 0 ? static_cast<uint64_t>(there.st_size) : 0;
}

int64_t chunk_folder::now_ns() {
    timespec now = {};
    ::clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * second_ns + now.tv_nsec;
}

bool chunk_folder::touch(uint64_t key, int64_t used_ns) const {
    const timespec times[2] = {{0, UTIME_OMIT}, {used_ns / second_ns, used_ns % second_ns}};
    // Where the time may not be set, another's folder or one that cannot be written, the file counts as it is.
    return ::utimensat(AT_FDCWD, path_of(key).c_str(), times, AT_SYMLINK_NOFOLLOW) == 0 || errno != ENOENT;
}

void chunk_folder::remove(uint64_t key) const {
    ::unlink(path_of(key).c_str());
}

std::vector<chunk_folder::file> chunk_folder::files_in(const std::string & path) {
    const std::unique_ptr<DIR, int (*)(DIR *)> dir(::opendir(path.c_str()), ::closedir);
    if (!dir) {
        fail("cannot read the folder '", path, "': ", std::strerror(errno));
    }
    std::vector<file> all;
    while (const dirent * const entry = ::readdir(dir.get())) {
        struct stat s = {};
        const std::optional<uint64_t> key = key_of(entry->d_name);
        if (key && ::fstatat(::dirfd(dir.get()), entry->d_name, &s, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(s.st_mode)) {
            all.push_back({*key, static_cast<uint64_t>(s.st_size), s.st_mtim.tv_sec * second_ns + s.st_mtim.tv_nsec});
        }
    }
    return all;
}

uint64_t chunk_folder::wrote(uint64_t key) {
    const uint64_t bytes = bytes_of(key);
    const fork_gate::lock lock(mutex_);
    const uint64_t slack = limit_ / 16;
    written_ += bytes;
    if (bytes_ + written_ > limit_ || written_ >= slack) {
        shrink();
    }
    return bytes;
}

void chunk_folder::shrink() {
    std::vector<file> all = files_in(path_);
    bytes_ = written_ = 0;
    for (const file & one : all) {
        bytes_ += one.bytes;
    }
    if (bytes_ <= limit_) {
        return;
    }
    std::ranges::sort(all, {}, &file::used_ns);
    for (const file & one : all) {
        if (bytes_ <= most_of_a_text()) {
            break;
        }
        remove(one.key);
        bytes_ -= one.bytes;
        ++n_evicted_;
    }
}

int64_t chunk_folder::n_evicted() const {
    const fork_gate::lock lock(mutex_);
    return n_evicted_;
}

}  // namespace livekv
