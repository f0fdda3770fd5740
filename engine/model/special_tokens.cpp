#include "model/special_tokens.h"

#include <algorithm>

#include "model/vocab.h"

namespace livekv {

special_tokens::special_tokens(const vocab & tokens) : tokens_(tokens) {
    for (int32_t id = 0; id < tokens.n_tokens(); ++id) {
        const bool is_special = tokens.type(id) == token_type::control || tokens.type(id) == token_type::user_defined;
        if (is_special && !tokens.text(id).empty()) {
            by_first_byte_[static_cast<uint8_t>(tokens.text(id)[0])].push_back(id);
        }
    }
    for (std::vector<int32_t> & ids : by_first_byte_) {
        std::stable_sort(ids.begin(), ids.end(),
                         [&](int32_t a, int32_t b) { return tokens.text(a).size() > tokens.text(b).size(); });
    }
}

special_tokens::match special_tokens::find(std::string_view text, size_t from, std::span<const span> control) const {
    for (size_t at = from; at < text.size(); ++at) {
        while (!control.empty() && control.front().end <= at) {
            control = control.subspan(1);
        }
        const size_t control_end = !control.empty() && control.front().begin <= at ? control.front().end : 0;
        for (const int32_t id : by_first_byte_[static_cast<uint8_t>(text[at])]) {
            const size_t end = at + tokens_.text(id).size();
            const bool wanted = end <= control_end || tokens_.type(id) == token_type::user_defined;
            if (wanted && text.substr(at).starts_with(tokens_.text(id))) {
                return {at, end, id};
            }
        }
    }
    return {text.size(), text.size(), -1};
}

}  // namespace livekv
