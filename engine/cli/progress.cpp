#include "cli/progress.h"

#include <unistd.h>

#include <cstdio>

namespace livekv {

namespace {

constexpr int bar_width = 24;
constexpr std::chrono::milliseconds bar_interval(100);
constexpr std::chrono::milliseconds line_interval(2000);

}  // namespace

std::string mebibytes(double bytes) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.1f MiB", bytes / (1 << 20));
    return text;
}

prefill_progress::prefill_progress(int64_t n_tokens)
    : n_tokens_(n_tokens),
      terminal_(::isatty(STDERR_FILENO)),
      start_(std::chrono::steady_clock::now()),
      last_shown_(start_) {}

void prefill_progress::update(int64_t n_done, const std::function<size_t()> & cache_bytes) {
    const auto now = std::chrono::steady_clock::now();
    const bool last_of_bar = terminal_ && n_done == n_tokens_;
    if (now - last_shown_ < (terminal_ ? bar_interval : line_interval) && !last_of_bar) {
        return;
    }
    last_shown_ = now;
    const double seconds = std::chrono::duration<double>(now - start_).count();
    const double tps = seconds > 0.0 ? static_cast<double>(n_done) / seconds : 0.0;
    const std::string cache = mebibytes(static_cast<double>(cache_bytes()));
    if (terminal_) {
        const int filled = static_cast<int>(bar_width * n_done / n_tokens_);
        const std::string bar = std::string(filled, '#') + std::string(bar_width - filled, '.');
        std::fprintf(stderr, "\rprefill [%s] %lld/%lld tokens, %.1f tokens/s, cache %s ", bar.c_str(),
                     static_cast<long long>(n_done), static_cast<long long>(n_tokens_), tps, cache.c_str());
        std::fflush(stderr);
        drawn_ = true;
    } else {
        std::fprintf(stderr, "prefill: %lld/%lld tokens, %.1f tokens/s, cache %s\n", static_cast<long long>(n_done),
                     static_cast<long long>(n_tokens_), tps, cache.c_str());
    }
}

void prefill_progress::finish() {
    if (drawn_) {
        std::fputc('\n', stderr);
        drawn_ = false;
    }
}

}  // namespace livekv
