#include "model/special_tokens.h"

#include <algorithm>

#include "model/characters.h"
#include "model/nfc.h"
#include "model/space_marks.h"

namespace livekv {

special_tokens::special_tokens(const vocab & tokens) {
    for (const added_token & token : tokens.added) {
        std::string text = tokens.text(token.id);
        if (text.empty()) {
            continue;
        }
        if (token.normalized && tokens.normalizes_spaces) {
            text = mark_spaces(text, tokens.prefix == space_prefix::always);
        }
        if (token.normalized && tokens.normalizes_nfc) {
            text = to_nfc(text);
        }
        patterns & all = token.normalized ? normalized_ : literal_;
        const bool is_control = tokens.type(token.id) != token_type::user_defined;
        all.add(text, {token, is_control, text.size()});
        any_normalized_ = any_normalized_ || token.normalized;
    }
}

void special_tokens::patterns::add(const std::string & text, const pattern & p) {
    by_text[text].push_back(p);
    std::vector<size_t> & all = lengths[static_cast<uint8_t>(text[0])];
    const auto at = std::lower_bound(all.begin(), all.end(), text.size(), std::greater<>());
    if (at == all.end() || *at != text.size()) {
        all.insert(at, text.size());
    }
}

const special_tokens::pattern * special_tokens::patterns::longest_at(std::string_view rest, size_t control_length,
                                                                     std::span<const int32_t> marks) const {
    for (const size_t length : lengths[static_cast<uint8_t>(rest[0])]) {
        if (length > rest.size()) {
            continue;
        }
        const auto same = by_text.find(rest.substr(0, length));
        if (same == by_text.end()) {
            continue;
        }
        for (const pattern & p : same->second) {
            const bool is_control = p.is_control || std::ranges::find(marks, p.token.id) != marks.end();
            if (!is_control || length <= control_length) {
                return &p;
            }
        }
    }
    return nullptr;
}

std::vector<special_tokens::match> special_tokens::find(std::string_view text, std::span<const span> control,
                                                        std::span<const int32_t> marks) const {
    return find_in(literal_, text, control, marks);
}

std::vector<special_tokens::match> special_tokens::find_normalized(std::string_view text, std::span<const span> control,
                                                                   std::span<const int32_t> marks) const {
    return find_in(normalized_, text, control, marks);
}

std::vector<special_tokens::match> special_tokens::find_in(const patterns & wanted, std::string_view text,
                                                           std::span<const span> control,
                                                           std::span<const int32_t> marks) {
    std::vector<match> found;
    size_t taken = 0;  // where the last match ended
    for (size_t at = 0; at < text.size();) {
        while (!control.empty() && control.front().end <= at) {
            control = control.subspan(1);
        }
        const size_t control_end = !control.empty() && control.front().begin <= at ? control.front().end : 0;
        const size_t control_length = control_end > at ? control_end - at : 0;
        const pattern * hit = wanted.longest_at(text.substr(at), control_length, marks);
        if (!hit) {
            ++at;
            continue;
        }
        const size_t end = at + hit->length;
        const added_token & token = hit->token;
        if (!token.single_word || (!ends_with_word(text.substr(0, at)) && !starts_with_word(text.substr(end)))) {
            // A token of white space may lie inside what the one before took along, which then reaches as far. One that
            // takes what is in front of it along finds nothing left of itself.
            const size_t begin = std::max(at, taken);
            const size_t reach = std::max(end, taken);
            const bool strips_left = token.lstrip && begin == at;
            const bool strips_right = token.rstrip && reach == end;
            if (token.lstrip && end <= taken) {
                at = end;
                continue;
            }
            found.push_back({strips_left ? at - trailing_white_space(text.substr(taken, at - taken)) : begin,
                             strips_right ? end + leading_white_space(text.substr(end)) : reach, token.id});
            taken = found.back().end;
        }
        at = end;
    }
    return found;
}

}  // namespace livekv
