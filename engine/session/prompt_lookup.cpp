#include "session/prompt_lookup.h"

#include <algorithm>

#include "error.h"

namespace livekv {

namespace {

constexpr int64_t longest_pause = 512;  // tokens
// Of a pass, in times of a token's, as measured at a depth of 8,192.
constexpr double cost_of_draft = 0.3;
constexpr double cost_of_token = 0.4;
constexpr double most_gained = 3.0;

}  // namespace

prompt_lookup::prompt_lookup(int64_t most) : most_(most) {
    LIVEKV_ASSERT(most >= 1);
    length_ = std::min(length_, most_);
}

// 21 bits a token: of larger vocabularies, grams may fall together, which makes a bad draft.
uint64_t prompt_lookup::last_gram() const {
    uint64_t key = 0;
    for (size_t i = text_.size() - gram; i < text_.size(); ++i) {
        key = key << 21 ^ static_cast<uint64_t>(text_[i]);
    }
    return key;
}

void prompt_lookup::observe(int32_t token) {
    if (text_.size() >= gram) {
        behind_[last_gram()] = text_.size();
    }
    text_.push_back(token);
    pause_ = std::max<int64_t>(0, pause_ - 1);
}

std::span<const int32_t> prompt_lookup::draft(int64_t room) {
    if (pause_ > 0 || text_.size() < gram) {
        return {};
    }
    const auto found = behind_.find(last_gram());
    if (found == behind_.end()) {
        return {};
    }
    const std::span<const int32_t> rest = std::span<const int32_t>(text_).subspan(found->second);
    const auto n = std::min({length_, room, static_cast<int64_t>(rest.size())});
    return rest.first(static_cast<size_t>(std::max<int64_t>(0, n)));
}

// The account is in times of a token: what drafts gained less what they cost. What was gained once covers some
// failures; who has none left waits, twice as long each time.
void prompt_lookup::learn(int64_t n_drafted, int64_t n_accepted) {
    account_ += static_cast<double>(n_accepted) - cost_of_draft - cost_of_token * static_cast<double>(n_drafted);
    account_ = std::min(account_, most_gained);
    length_ = std::min(most_, n_accepted == n_drafted ? 2 * n_drafted + 1 : n_accepted + 1);
    if (n_accepted == n_drafted && account_ > 0.0) {
        penalty_ = shortest_pause;
    }
    if (account_ < 0.0) {
        account_ = 0.0;
        pause_ = penalty_;
        penalty_ = std::min(longest_pause, 2 * penalty_);
    }
}

}  // namespace livekv
