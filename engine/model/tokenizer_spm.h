#pragma once

#include <array>
#include <string_view>
#include <unordered_map>

#include "model/symbol_merger.h"
#include "model/text_encoder.h"

namespace livekv {

struct vocab;

// SentencePiece's BPE: characters merge by the score of the token that they form, spaces are written U+2581, and a
// character that is no token becomes its bytes' tokens <0xXX>, or the unknown token where the vocabulary lacks one.
// A U+2581 in the text itself becomes bytes too: it would come back as a space otherwise. (SentencePiece takes it for
// a space.) So decoding gives back every byte string.
class tokenizer_spm final : public text_encoder {
  public:
    explicit tokenizer_spm(const vocab & tokens);  // keeps a reference

    void encode(std::string_view text, bool space_in_front, std::vector<int32_t> & out) const override;
    std::string bytes(int32_t id) const override;

  private:
    int32_t find(std::string_view text) const;  // -1 when it is no token of text
    void append_merged(symbol_merger & merger, std::vector<int32_t> & out) const;
    void append_bytes(std::string_view character, std::vector<int32_t> & out) const;

    const vocab & tokens_;
    std::unordered_map<std::string_view, int32_t> by_text_;  // tokens of text only: <s> in a text is no control token
    size_t longest_ = 0;                                     // bytes, of by_text_'s keys
    std::array<int32_t, 256> by_byte_;                       // -1: the vocabulary has no such token
    bool merges_across_words_ = false;                       // a token has a space behind something else than a space
};

}  // namespace livekv
