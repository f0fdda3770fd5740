#include "model/joined_text.h"

#include <algorithm>

#include "model/nfc.h"
#include "model/space_marks.h"

namespace livekv {

joined_text join(std::span<const text_part> parts, bool tidy, bool begins) {
    joined_text out;
    for (const text_part & part : parts) {
        const size_t begin = out.text.size();
        for (const char c : part.text) {
            const bool extra = tidy && c == ' ' && (out.text.empty() ? begins : out.text.back() == ' ');
            if (!extra) {
                out.text += c;
            }
        }
        if (part.parse_special) {
            out.control.push_back({begin, out.text.size()});
        }
    }
    if (tidy && out.text.ends_with(' ')) {
        out.text.pop_back();
        if (!out.control.empty()) {
            special_tokens::span & last = out.control.back();
            last.begin = std::min(last.begin, out.text.size());
            last.end = std::min(last.end, out.text.size());
        }
    }
    return out;
}

joined_text slice(const joined_text & text, size_t begin, size_t end) {
    joined_text out{text.text.substr(begin, end - begin), {}};
    const auto first = std::partition_point(text.control.begin(), text.control.end(),
                                            [&](const special_tokens::span & s) { return s.end <= begin; });
    for (auto s = first; s != text.control.end() && s->begin < end; ++s) {
        out.control.push_back({std::max(s->begin, begin) - begin, std::min(s->end, end) - begin});
    }
    return out;
}

namespace {

// Each stretch between two borders of control rewritten, behind what stands in front.
template <typename Rewrite>
joined_text rewritten(const joined_text & text, std::string front, const Rewrite & rewrite) {
    joined_text out{std::move(front), {}};
    size_t at = 0;
    const auto copy_until = [&](size_t end) {
        out.text += rewrite(std::string_view(text.text).substr(at, end - at));
        at = end;
        return out.text.size();
    };
    for (const special_tokens::span & s : text.control) {
        const size_t begin = s.begin == 0 ? 0 : copy_until(s.begin);  // the front belongs to what it precedes
        out.control.push_back({begin, copy_until(s.end)});
    }
    copy_until(text.text.size());
    return out;
}

}  // namespace

joined_text composed(const joined_text & text) {
    return rewritten(text, "", [](std::string_view stretch) { return to_nfc(stretch); });
}

joined_text marked(const joined_text & text, bool one_in_front) {
    return rewritten(text, mark_spaces({}, one_in_front),
                     [](std::string_view stretch) { return mark_spaces(stretch, false); });
}

}  // namespace livekv
