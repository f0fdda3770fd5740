#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/vocab.h"

namespace livekv {

// Finds added tokens that are written out in a text, by the rules of Hugging Face's tokenizers: from the left, of
// several at one place the longest; one that must be a word of its own and is none is passed over. Two rounds: tokens
// that are not normalized in the text, then normalized ones in each piece that is left.
class special_tokens {
  public:
    explicit special_tokens(const vocab & tokens);

    // Offsets in a text between which control tokens count; in order, without overlap.
    struct span {
        size_t begin;
        size_t end;
    };
    struct match {
        size_t begin;  // with the white space that the token takes along
        size_t end;
        int32_t id;
    };

    // In order. Control tokens only inside one of the spans, others everywhere.
    std::vector<match> find(std::string_view text, std::span<const span> control) const;
    // text: with its spaces replaced, where the model replaces them before.
    std::vector<match> find_normalized(std::string_view text, std::span<const span> control) const;
    bool any_normalized() const { return any_normalized_; }

  private:
    struct pattern {
        std::string text;
        added_token token;
        bool is_control;
    };
    using patterns = std::array<std::vector<pattern>, 256>;  // by first byte, the longest first

    static std::vector<match> find_in(const patterns & wanted, std::string_view text, std::span<const span> control);

    patterns literal_;
    patterns normalized_;
    bool any_normalized_ = false;
};

}  // namespace livekv
