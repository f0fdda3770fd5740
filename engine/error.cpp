#include "error.h"

#include <cstdint>
#include <string_view>

#include "utf8.h"

namespace livekv {

std::string printable(const std::string & text) {
    constexpr char digits[] = "0123456789abcdef";
    std::string out;
    for (std::string_view rest = text; !rest.empty();) {
        const utf8_head head = read_utf8(rest);
        const auto first = static_cast<uint8_t>(rest[0]);
        if (head.valid && first >= 0x20 && first != 0x7f) {
            out += rest.substr(0, head.length);
            rest.remove_prefix(head.length);
        } else {
            out += {'\\', 'x', digits[first >> 4], digits[first & 0xf]};
            rest.remove_prefix(1);
        }
    }
    return out;
}

}  // namespace livekv
