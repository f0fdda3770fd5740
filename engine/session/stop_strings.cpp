#include "session/stop_strings.h"

#include <algorithm>
#include <utility>

#include "error.h"

namespace livekv {

namespace {

// Bytes at the end of text that stop begins with, not all of it.
size_t overlap(const std::string & text, const std::string & stop) {
    for (size_t n = std::min(text.size(), stop.size() - 1); n > 0; --n) {
        if (text.compare(text.size() - n, n, stop, 0, n) == 0) {
            return n;
        }
    }
    return 0;
}

}  // namespace

stop_strings::stop_strings(std::vector<std::string> stops) : stops_(std::move(stops)) {
    if (std::any_of(stops_.begin(), stops_.end(), [](const std::string & stop) { return stop.empty(); })) {
        fail("a stop string is empty");
    }
}

std::string stop_strings::push(const std::string & piece) {
    if (found_) {
        return "";
    }
    held_ += piece;
    size_t n_certain = held_.size();
    size_t end = std::string::npos;  // of the stop string that is complete first, the longest of them
    for (const std::string & stop : stops_) {
        const size_t at = held_.find(stop);
        if (at != std::string::npos && std::pair(at + stop.size(), at) < std::pair(end, n_certain)) {
            found_ = true;
            end = at + stop.size();
            n_certain = at;
        }
    }
    size_t n_held = 0;
    for (const std::string & stop : stops_) {
        n_held = found_ ? 0 : std::max(n_held, overlap(held_, stop));
    }
    std::string certain = held_.substr(0, n_certain - n_held);
    held_.erase(0, certain.size());
    return certain;
}

std::string stop_strings::finish() {
    return found_ ? "" : std::exchange(held_, "");
}

}  // namespace livekv
