#pragma once

#include <unistd.h>

#include <filesystem>
#include <set>
#include <string>

// An empty folder, removed with all that is in it.
class temporary_folder {
  public:
    temporary_folder() {
        static int n_made = 0;
        const std::string name = "livekv-folder-" + std::to_string(::getpid()) + "-" + std::to_string(++n_made);
        path_ = std::filesystem::temp_directory_path() / name;
        std::filesystem::remove_all(path_);
        std::filesystem::create_directory(path_);
    }
    ~temporary_folder() { std::filesystem::remove_all(path_); }

    std::string path() const { return path_.string(); }
    std::string file(const std::string & name) const { return (path_ / name).string(); }

    std::set<std::string> names() const {
        std::set<std::string> found;
        for (const auto & entry : std::filesystem::directory_iterator(path_)) {
            found.insert(entry.path().filename().string());
        }
        return found;
    }

  private:
    std::filesystem::path path_;
};
