#include "model/ggml_log.h"

#include <ggml.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <string_view>

#include "fork_gate.h"

// ggml's one lock, which every context and backend is made under; its header is not public.
extern "C" {
void ggml_critical_section_start(void);
void ggml_critical_section_end(void);
}

namespace livekv {

namespace {

// Of a size that is there already: ggml calls this from C, through which nothing may be thrown.
struct kept {
    std::mutex mutex;
    std::array<char, 4096> text;
    size_t size = 0;
};

kept & messages() {
    static kept all;
    return all;
}

void keep_errors(ggml_log_level level, const char * text, void *) {
    if (level != GGML_LOG_LEVEL_ERROR && level != GGML_LOG_LEVEL_WARN) {
        return;
    }
    kept & all = messages();
    const std::lock_guard lock(all.mutex);
    const std::string_view more = std::string_view(text).substr(0, all.text.size() - all.size);
    std::copy(more.begin(), more.end(), all.text.begin() + static_cast<int64_t>(all.size));
    all.size += more.size();
}

}  // namespace

void set_up_ggml() {
    static std::once_flag once;
    std::call_once(once, [] {
        ggml_log_set(keep_errors, nullptr);
        fork_gate::hold(messages().mutex);
        fork_gate::watch({ggml_critical_section_start, ggml_critical_section_end, ggml_critical_section_end});
    });
}

std::string take_ggml_errors() {
    kept & all = messages();
    const std::lock_guard lock(all.mutex);
    std::string line(all.text.data(), all.size);
    all.size = 0;
    std::replace(line.begin(), line.end(), '\n', ' ');
    line.erase(line.find_last_not_of(' ') + 1);
    return line;
}

}  // namespace livekv
