#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

struct pcre2_real_code_8;

namespace livekv {

// Cuts text into the words inside which byte-level BPE merges, by the published regular expressions of each family.
class pretokenizer {
  public:
    // name: tokenizer.ggml.pre; throws livekv::error listing the supported ones for any other.
    // match_limit: of PCRE2's steps for one word. A long run of spaces is backtracked over once, which is more than
    // PCRE2's default allows.
    explicit pretokenizer(const std::string & name, uint32_t match_limit = UINT32_MAX);

    // The words in order; together they are all of text. Bytes that are not UTF-8 form words of their own. Throws
    // livekv::error where PCRE2 gives up.
    std::vector<std::string_view> split(std::string_view text) const;

    // Whether a word that is a token is taken whole, even where merging would not lead to it.
    bool ignores_merges() const { return ignores_merges_; }

  private:
    struct free_code {
        void operator()(pcre2_real_code_8 * code) const;
    };
    std::vector<std::unique_ptr<pcre2_real_code_8, free_code>> expressions_;  // each cuts the pieces of the one before
    bool ignores_merges_ = false;
    uint32_t match_limit_;
};

}  // namespace livekv
