#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace livekv {

// A whole file, mapped read-only into memory; pages come in as they are touched and can be dropped under pressure.
class mapped_file {
  public:
    // Throws livekv::error naming the file and the reason (missing, a directory, empty, no permission).
    explicit mapped_file(const std::string & path);
    ~mapped_file();
    mapped_file(mapped_file && other) noexcept;
    mapped_file(const mapped_file &) = delete;
    mapped_file & operator=(const mapped_file &) = delete;
    mapped_file & operator=(mapped_file &&) = delete;

    // Lets the pages that lie wholly in [begin, begin + n_bytes) go; they come back from the file if touched again.
    void release(const uint8_t * begin, size_t n_bytes) const;

    const uint8_t * data() const { return data_; }
    size_t size() const { return size_; }
    const std::string & path() const { return path_; }

  private:
    std::string path_;
    const uint8_t * data_ = nullptr;
    size_t size_ = 0;
};

}  // namespace livekv
