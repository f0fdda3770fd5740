#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace livekv {

// A file that appears whole or not at all: written beside its path as path.tmp-PID, synced, renamed by commit. Until
// then, and whenever the process dies, what was at path stays; a killed process's path.tmp-PID goes with the next write
// to path. Every method throws livekv::error naming path.
class atomic_file {
  public:
    // Refuses a path where something other than a file is, and a file_in_use; follows a symbolic link.
    explicit atomic_file(const std::string & path);
    ~atomic_file();  // without commit: removes what was written
    atomic_file(const atomic_file &) = delete;
    atomic_file & operator=(const atomic_file &) = delete;

    void append(std::span<const uint8_t> bytes);
    void overwrite(uint64_t offset, std::span<const uint8_t> bytes);  // of what was appended
    // sync: the file also outlives a fall of the machine. Without it, it may be there torn after one, but the disk is
    // not waited for: for what has a checksum and can be made again.
    void commit(bool sync = true);

    // Removes name.tmp-PID in a folder when the process that wrote it is gone. False when that is no such name.
    static bool remove_abandoned(const std::string & folder, const std::string & entry);

  private:
    [[noreturn]] void refuse(int reason) const;

    std::string path_;       // as given, for messages
    std::string target_;     // where it leads
    std::string temporary_;  // empty once committed
    int fd_ = -1;
};

}  // namespace livekv
