#pragma once

// Tokenizers of small vocabularies, for tests.

#include <functional>
#include <string>
#include <vector>

#include "../fixtures/small_vocab.h"
#include "check.h"
#include "model/gguf_file.h"
#include "model/tokenizer.h"

namespace small_tokenizers {

using livekv::tokenizer;
using strings = std::vector<std::string>;
using ids = std::vector<int32_t>;
using edit = std::function<void(gguf_context *)>;

inline std::string show(const ids & values) {
    std::string text;
    for (const int32_t id : values) {
        text += std::to_string(id) + " ";
    }
    return text;
}

inline tokenizer load(const fixtures::vocab_builder & vocab) {
    fixtures::memory_file file;
    vocab.write(file);
    return tokenizer(livekv::gguf_file(file.path()));
}

inline tokenizer spm(const edit & change = {}, bool with_bytes = true) {
    fixtures::vocab_builder vocab("llama", fixtures::spm_tokens(with_bytes));
    gguf_set_val_u32(vocab.gguf, "tokenizer.ggml.bos_token_id", 1);
    gguf_set_val_u32(vocab.gguf, "tokenizer.ggml.eos_token_id", 2);
    if (change) {
        change(vocab.gguf);
    }
    return load(vocab);
}

inline tokenizer bpe(const char * pre, const edit & change = {}) {
    fixtures::vocab_builder vocab("gpt2", fixtures::bpe_tokens());
    vocab.set_merges(fixtures::bpe_merges());
    gguf_set_val_str(vocab.gguf, "tokenizer.ggml.pre", pre);
    if (change) {
        change(vocab.gguf);
    }
    return load(vocab);
}

inline strings pieces(const tokenizer & tok, const std::string & text, bool parse_special = false) {
    strings out;
    for (const int32_t id : tok.encode(text, false, parse_special)) {
        out.push_back(tok.token_bytes(id, true));
    }
    return out;
}

inline void check_pieces(const strings & actual, const strings & expected) {
    std::string a, e;
    for (const std::string & s : actual) a += "[" + s + "]";
    for (const std::string & s : expected) e += "[" + s + "]";
    CHECK_EQ(a, e);
}

inline ids encode(const tokenizer & tok, const std::vector<livekv::text_part> & parts, int32_t behind = -1) {
    return tok.encode(parts, {.add_bos = false, .add_eos = false, .behind = behind});
}

}  // namespace small_tokenizers
