#include "cli/store_report.h"

#include <ctime>

#include "cli/progress.h"

namespace livekv {

namespace {

std::string local_time(int64_t seconds) {
    const std::time_t time = static_cast<std::time_t>(seconds);
    std::tm parts = {};
    char text[32] = "";
    if (::localtime_r(&time, &parts)) {
        std::strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &parts);
    }
    return text;
}

std::string mebibytes_of(int64_t bytes) {
    return mebibytes(static_cast<double>(bytes));
}

}  // namespace

std::string store_list_text(const std::vector<stored_piece> & pieces) {
    std::string text;
    int64_t bytes = 0;
    for (const stored_piece & piece : pieces) {
        bytes += static_cast<int64_t>(piece.bytes);
        text += piece.name + "  " + local_time(piece.used_s) + "  " + mebibytes_of(static_cast<int64_t>(piece.bytes));
        if (piece.readable) {
            text += "  tokens " + std::to_string(piece.first_token) + " to " +
                    std::to_string(piece.first_token + piece.n_tokens - 1) + "  " + printable(piece.policy) +
                    "  weights " + printable(piece.weights);
        } else {
            text += "  cannot be read";
        }
        text += "\n";
    }
    return text + std::to_string(pieces.size()) + " pieces, " + mebibytes_of(bytes) + "\n";
}

std::string store_summary_text(const chunk_store_counts & counts) {
    std::string text = "store     " + std::to_string(counts.n_tokens_read) + " tokens read, " +
                       std::to_string(counts.n_written) + " pieces written";
    text += counts.n_written > 0 ? " (" + mebibytes_of(counts.bytes_written) + ")" : "";
    const auto add = [&](int64_t n, const char * what) { text += n > 0 ? ", " + std::to_string(n) + " " + what : ""; };
    add(counts.n_damaged, "damaged ones removed");
    add(counts.n_foreign, "of something else passed over");
    add(counts.n_unreadable, "unreadable");
    add(counts.n_evicted, "removed for the limit");
    return text + "\n";
}

}  // namespace livekv
