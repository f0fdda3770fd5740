#include "file_in_use.h"

#include <mutex>
#include <set>
#include <utility>

#include "fork_gate.h"

namespace livekv {

namespace {

struct registry {
    std::mutex mutex;
    std::multiset<std::pair<dev_t, ino_t>> files;  // as often as they are in use
};

registry & all() {
    static registry * const one = [] {
        auto * const made = new registry;  // outlives every object that leaves it
        fork_gate::hold(made->mutex);
        return made;
    }();
    return *one;
}

}  // namespace

file_in_use::file_in_use(const std::string & path) {
    struct stat file = {};
    if (::stat(path.c_str(), &file) == 0) {
        const std::lock_guard lock(all().mutex);
        all().files.emplace(file.st_dev, file.st_ino);
        device_ = file.st_dev;
        inode_ = file.st_ino;
        known_ = true;
    }
}

file_in_use::~file_in_use() {
    if (known_) {
        const std::lock_guard lock(all().mutex);
        all().files.erase(all().files.find({device_, inode_}));
    }
}

bool file_in_use::is(const struct stat & file) {
    const std::lock_guard lock(all().mutex);
    return all().files.contains({file.st_dev, file.st_ino});
}

}  // namespace livekv
