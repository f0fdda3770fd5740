#include "model/space_marks.h"

namespace livekv {

std::string mark_spaces(std::string_view text, bool one_in_front) {
    std::string marked;
    marked.reserve(text.size() + text.size() / 2);
    if (one_in_front) {
        marked += space_mark;
    }
    for (const char c : text) {
        if (c == ' ') {
            marked += space_mark;
        } else {
            marked += c;
        }
    }
    return marked;
}

std::string unmark_spaces(std::string_view text) {
    std::string out;
    for (size_t mark = text.find(space_mark); mark != std::string_view::npos; mark = text.find(space_mark)) {
        out.append(text.substr(0, mark)).append(" ");
        text.remove_prefix(mark + space_mark.size());
    }
    return out.append(text);
}

}  // namespace livekv
