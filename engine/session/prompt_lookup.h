#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace livekv {

// Drafts how a text goes on: after its last three tokens, as it went on when the same three last stood there (prompt
// lookup decoding, Saxena 2023). Drafts get longer while they are right, and rarer while they are wrong, as a wrong one
// costs about what a token does.
class prompt_lookup {
  public:
    // most: tokens of a draft, at most.
    explicit prompt_lookup(int64_t most);

    // The text's next token.
    void observe(int32_t token);

    // What may come after the last token observed: room tokens at most, often none.
    std::span<const int32_t> draft(int64_t room);

    // Of the last draft, so many tokens were right.
    void learn(int64_t n_drafted, int64_t n_accepted);

  private:
    static constexpr size_t gram = 3;
    static constexpr int64_t shortest_pause = 32;

    uint64_t last_gram() const;

    int64_t most_;
    int64_t length_ = 2;                // of the next draft
    int64_t pause_ = 0;                 // tokens without one
    int64_t penalty_ = shortest_pause;  // the next pause
    double account_ = 0.0;
    std::vector<int32_t> text_;
    std::unordered_map<uint64_t, size_t> behind_;  // of three tokens: where the token behind their last place is
};

}  // namespace livekv
