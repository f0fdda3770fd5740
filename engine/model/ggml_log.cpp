#include "model/ggml_log.h"

#include <ggml.h>

#include <mutex>

namespace livekv {

namespace {

thread_local std::string pending;

void keep_errors(ggml_log_level level, const char * text, void *) {
    if (level == GGML_LOG_LEVEL_ERROR || level == GGML_LOG_LEVEL_WARN) {
        pending += text;
    }
}

}  // namespace

void silence_ggml() {
    static std::once_flag once;
    std::call_once(once, [] { ggml_log_set(keep_errors, nullptr); });
}

std::string take_ggml_errors() {
    std::string line;
    for (const char c : pending) {
        line += c == '\n' ? ' ' : c;
    }
    pending.clear();
    line.erase(line.find_last_not_of(' ') + 1);
    return line;
}

}  // namespace livekv
