#pragma once

#include <array>
#include <string_view>
#include <unordered_map>

#include "model/merge_table.h"
#include "model/pretokenizer.h"
#include "model/symbol_merger.h"
#include "model/text_encoder.h"

namespace livekv {

struct vocab;

// Byte-level BPE as in GPT-2: inside each word of the pre-tokenizer, bytes merge by rank. In the vocabulary every byte
// is written as one printable character. A byte without a token becomes the unknown token, or is left out where the
// vocabulary has none; with all 256 of them decoding gives back every byte string.
class tokenizer_bpe final : public text_encoder {
  public:
    // Keeps a reference, but not to tokens.merges. Throws livekv::error for an unknown pre-tokenizer and as merge_table
    // does.
    explicit tokenizer_bpe(const vocab & tokens);

    void encode(std::string_view text, std::vector<int32_t> & out) const override;
    std::string bytes(int32_t id) const override { return bytes_[static_cast<size_t>(id)]; }

  private:
    void append_word(std::string_view word, symbol_merger & merger, std::vector<int32_t> & out) const;

    const vocab & tokens_;
    pretokenizer words_;
    std::vector<std::string> bytes_;                          // [n_tokens]
    std::unordered_map<std::string_view, int32_t> by_bytes_;  // looks into bytes_; tokens of text, and bytes
    std::array<int32_t, 256> by_byte_;                        // tokens of any type, which may merge; -1: none
    merge_table merges_;
    bool ignores_merges_;  // a word that is a token is taken whole, even where merging would not lead to it
};

}  // namespace livekv
