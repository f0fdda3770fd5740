#pragma once

#include <string>
#include <string_view>

namespace livekv {

// text in Unicode's normalization form C: letters and their marks as one character where there is one. Bytes that are
// not UTF-8 stay as they are. In time linear in the text, but for runs of marks, which are sorted.
std::string to_nfc(std::string_view text);

}  // namespace livekv
