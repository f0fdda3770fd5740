#pragma once

#include <array>
#include <string>

namespace livekv {

// How the models of one tokenizer.ggml.pre cut a text into words.
struct pretokenizer_rules {
    std::array<const char *, 5> expressions;  // for PCRE2, applied one after the other; unused ones are null
    bool ignores_merges = false;              // a word that is a token is taken whole, even where no merges lead to it
    bool adds_bos = false;                    // where the file does not say whether <bos> is put in front
};

// name: tokenizer.ggml.pre. Throws livekv::error listing the supported ones for any other.
const pretokenizer_rules & pretokenizer_rules_of(const std::string & name);

}  // namespace livekv
