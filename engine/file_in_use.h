#pragma once

#include <sys/stat.h>

#include <string>

namespace livekv {

// A file that this process reads from and must not replace, as long as this object lives: the file itself, whatever
// names lead to it. atomic_file refuses it.
class file_in_use {
  public:
    explicit file_in_use(const std::string & path);  // nothing where there is none
    ~file_in_use();
    file_in_use(const file_in_use &) = delete;
    file_in_use & operator=(const file_in_use &) = delete;

    static bool is(const struct stat & file);

  private:
    bool known_ = false;
    dev_t device_ = 0;
    ino_t inode_ = 0;
};

}  // namespace livekv
