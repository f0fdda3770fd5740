#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

namespace livekv {

// The prefill's progress on stderr: a bar redrawn in place on a terminal, some times a second, otherwise a plain line
// every few seconds.
class prefill_progress {
  public:
    explicit prefill_progress(int64_t n_tokens);

    // cache_bytes: asked only when something is shown, as it walks all that is in the cache.
    void update(int64_t n_done, const std::function<size_t()> & cache_bytes);

    // Leaves the finished bar's line.
    void finish();

  private:
    int64_t n_tokens_;
    bool terminal_;
    bool drawn_ = false;
    std::chrono::steady_clock::time_point start_;
    std::chrono::steady_clock::time_point last_shown_;
};

// "12.3 MiB"
std::string mebibytes(double bytes);

}  // namespace livekv
