#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
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

    // In order. Control tokens, and marks, only inside one of the spans, others everywhere.
    std::vector<match> find(std::string_view text, std::span<const span> control, std::span<const int32_t> marks) const;
    // text: with its spaces replaced, where the model replaces them before.
    std::vector<match> find_normalized(std::string_view text, std::span<const span> control,
                                       std::span<const int32_t> marks) const;
    bool any_normalized() const { return any_normalized_; }

  private:
    struct pattern {
        added_token token;
        bool is_control;
        size_t length;  // bytes
    };
    struct text_hash {
        using is_transparent = void;
        size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
    };
    // Some vocabularies have thousands of tokens that begin alike, so a place is looked up once for each length.
    struct patterns {
        std::unordered_map<std::string, std::vector<pattern>, text_hash, std::equal_to<>> by_text;
        std::array<std::vector<size_t>, 256> lengths;  // by first byte, the longest first

        void add(const std::string & text, const pattern & p);
        // Of those that rest begins with, control tokens and marks only up to control_length bytes; or null. rest is
        // not empty.
        const pattern * longest_at(std::string_view rest, size_t control_length, std::span<const int32_t> marks) const;
    };

    static std::vector<match> find_in(const patterns & wanted, std::string_view text, std::span<const span> control,
                                      std::span<const int32_t> marks);

    patterns literal_;
    patterns normalized_;
    bool any_normalized_ = false;
};

}  // namespace livekv
