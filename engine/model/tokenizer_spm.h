#pragma once

#include <array>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>

#include "model/merge_table.h"
#include "model/symbol_merger.h"
#include "model/text_encoder.h"

namespace livekv {

struct vocab;

// SentencePiece's BPE over a text whose spaces are written as marks: characters merge by the score of the token that
// they form, or by a list of merges where the file has one, and a character that is no token becomes its bytes' tokens
// <0xXX>, or the unknown token where the vocabulary lacks one. Decoding gives back every byte string without marks.
class tokenizer_spm final : public text_encoder {
  public:
    // Keeps a reference, but not to tokens.merges. Throws livekv::error as merge_table does.
    explicit tokenizer_spm(const vocab & tokens);

    void encode(std::string_view text, std::vector<int32_t> & out) const override;
    std::string bytes(int32_t id) const override;

  private:
    bool is_symbol_alone(int32_t id) const;
    bool is_unknown_piece(int32_t id) const;
    int32_t find(std::string_view text) const;  // -1 when it is no token of text
    // first: where the text's tokens begin in out.
    void append_merged(symbol_merger & merger, size_t first, std::vector<int32_t> & out) const;
    void append_characters(std::string_view text, size_t first, std::vector<int32_t> & out) const;
    void append_bytes(std::string_view character, size_t first, std::vector<int32_t> & out) const;

    const vocab & tokens_;
    std::deque<std::string> marked_;                         // texts of added tokens, as merges write them
    std::unordered_map<std::string_view, int32_t> by_text_;  // what merges join: <s> in a text is no control token
    merge_table merges_;                                     // empty: by score
    size_t longest_ = 0;                                     // bytes, of by_text_'s keys
    std::array<int32_t, 256> by_byte_;                       // -1: the vocabulary has no such token
    bool merges_across_words_ = false;                       // a token has a space behind something else than a space
};

}  // namespace livekv
