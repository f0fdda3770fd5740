#include "model/special_tokens.h"

#include <algorithm>

#include "model/characters.h"
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
        patterns & all = token.normalized ? normalized_ : literal_;
        const bool is_control = tokens.type(token.id) != token_type::user_defined;
        all[static_cast<uint8_t>(text[0])].push_back({text, token, is_control});
        any_normalized_ = any_normalized_ || token.normalized;
    }
    for (patterns * all : {&literal_, &normalized_}) {
        for (std::vector<pattern> & list : *all) {
            std::stable_sort(list.begin(), list.end(),
                             [](const pattern & a, const pattern & b) { return a.text.size() > b.text.size(); });
        }
    }
}

std::vector<special_tokens::match> special_tokens::find(std::string_view text, std::span<const span> control) const {
    return find_in(literal_, text, control);
}

std::vector<special_tokens::match> special_tokens::find_normalized(std::string_view text,
                                                                   std::span<const span> control) const {
    return find_in(normalized_, text, control);
}

std::vector<special_tokens::match> special_tokens::find_in(const patterns & wanted, std::string_view text,
                                                           std::span<const span> control) {
    std::vector<match> found;
    size_t taken = 0;  // where the last match ended
    for (size_t at = 0; at < text.size();) {
        while (!control.empty() && control.front().end <= at) {
            control = control.subspan(1);
        }
        const size_t control_end = !control.empty() && control.front().begin <= at ? control.front().end : 0;
        const std::string_view rest = text.substr(at);
        const std::vector<pattern> & list = wanted[static_cast<uint8_t>(rest[0])];
        const auto hit = std::find_if(list.begin(), list.end(), [&](const pattern & p) {
            return (!p.is_control || at + p.text.size() <= control_end) && rest.starts_with(p.text);
        });
        if (hit == list.end()) {
            ++at;
            continue;
        }
        const size_t end = at + hit->text.size();
        const added_token & token = hit->token;
        if (!token.single_word || (!ends_with_word(text.substr(0, at)) && !starts_with_word(text.substr(end)))) {
            // A token of white space may lie inside what the one before took along, which then reaches as far.
            const size_t begin = std::max(at, taken);
            const size_t reach = std::max(end, taken);
            const bool strips_left = token.lstrip && begin == at;
            const bool strips_right = token.rstrip && reach == end;
            found.push_back({strips_left ? at - trailing_white_space(text.substr(taken, at - taken)) : begin,
                             strips_right ? end + leading_white_space(text.substr(end)) : reach, token.id});
            taken = found.back().end;
        }
        at = end;
    }
    return found;
}

}  // namespace livekv
