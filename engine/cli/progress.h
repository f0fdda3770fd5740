#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace livekv {

// The prefill's progress on stderr: a bar redrawn in place on a terminal, otherwise a plain line every few seconds.
class prefill_progress {
  public:
    explicit prefill_progress(int64_t n_tokens);

    void update(int64_t n_done, size_t cache_bytes);

    // Leaves the finished bar's line.
    void finish();

  private:
    int64_t n_tokens_;
    bool terminal_;
    bool drawn_ = false;
    std::chrono::steady_clock::time_point start_;
    std::chrono::steady_clock::time_point last_line_;
};

// "12.3 MiB"
std::string mebibytes(double bytes);

}  // namespace livekv
