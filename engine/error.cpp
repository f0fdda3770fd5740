#include "error.h"

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "utf8.h"

namespace livekv {

namespace {

constexpr size_t most_bytes = 1000;
constexpr size_t last_bytes = 300;  // of these, behind what is left out

bool is_shown(std::string_view character) {
    const char32_t c = code_point(character);
    const bool controls = c < 0x20 || (c >= 0x7f && c < 0xa0);
    const bool ends_line = c == 0x2028 || c == 0x2029;
    return !controls && !ends_line;
}

// line with its middle left out where it is too long.
std::string shortened(const std::string & line) {
    const auto inside = [&](size_t i) { return (static_cast<uint8_t>(line[i]) & 0xc0) == 0x80; };
    const std::string gap = " ... ";
    if (line.size() <= most_bytes) {
        return line;
    }
    size_t first = most_bytes - last_bytes - gap.size();
    size_t last = line.size() - last_bytes;
    for (; inside(first); --first) {
    }
    for (; last < line.size() && inside(last); ++last) {
    }
    return line.substr(0, first) + gap + line.substr(last);
}

}  // namespace

std::string printable(const std::string & text) {
    constexpr char digits[] = "0123456789abcdef";
    const auto needs_no_look = [](char c) { return c >= 0x20 && c < 0x7f; };
    std::string out;
    for (std::string_view rest = text; !rest.empty();) {
        const auto n_plain = static_cast<size_t>(std::ranges::find_if_not(rest, needs_no_look) - rest.begin());
        out += rest.substr(0, n_plain);
        rest.remove_prefix(n_plain);
        if (rest.empty()) {
            break;
        }
        const utf8_head head = read_utf8(rest);
        const auto first = static_cast<uint8_t>(rest[0]);
        if (head.valid && is_shown(rest.substr(0, head.length))) {
            out += rest.substr(0, head.length);
            rest.remove_prefix(head.length);
        } else {
            out += {'\\', 'x', digits[first >> 4], digits[first & 0xf]};
            rest.remove_prefix(1);
        }
    }
    return shortened(out);
}

}  // namespace livekv
