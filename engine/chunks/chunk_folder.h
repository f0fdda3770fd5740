#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace livekv {

// Files of a folder by 64-bit keys, of which no more than a limit's bytes are kept: the least recently used go first.
// What was used when is the files' own time of change, so that processes share it. Several may use the folder at once;
// each counts what it writes itself and looks at the whole when it has written a sixteenth of the limit. Thread-safe.
class chunk_folder {
  public:
    // Makes the folder, for its owner alone, where its parent is there; removes what killed writers left and what is
    // over the limit. Throws livekv::error when it cannot be used.
    chunk_folder(const std::string & path, uint64_t limit);

    const std::string & path() const { return path_; }
    uint64_t limit() const { return limit_; }
    // What is left when something has to go for the limit: a text that is larger would lose its end again.
    uint64_t most_of_a_text() const { return limit_ - limit_ / 16; }
    std::string path_of(uint64_t key) const;

    enum class found { nothing, file, unreadable };
    found look(uint64_t key) const;
    uint64_t bytes_of(uint64_t key) const;  // 0 where it is not

    // Whether the file is there; says that it was used then, in ns since 1970.
    bool touch(uint64_t key, int64_t used_ns) const;
    static int64_t now_ns();

    void remove(uint64_t key) const;

    // After a file was written: lets go of what is over the limit. Its bytes. Throws livekv::error when the folder
    // cannot be read.
    uint64_t wrote(uint64_t key);
    int64_t n_evicted() const;

    struct file {
        uint64_t key;
        uint64_t bytes;
        int64_t used_ns;  // since 1970
    };
    // Throws livekv::error when the folder cannot be read.
    static std::vector<file> files_in(const std::string & path);

    static std::string name_of(uint64_t key);

  private:
    // Counts the folder, and lets go of what is over the limit.
    void shrink();

    std::string path_;
    uint64_t limit_;
    mutable std::mutex mutex_;
    uint64_t bytes_ = 0;    // when the folder was last looked at
    uint64_t written_ = 0;  // since then, by this process
    int64_t n_evicted_ = 0;
};

}  // namespace livekv
