// Any bytes through small vocabularies of each kind: decoding gives them back, streams give whole characters.

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "../fixtures/small_vocab.h"
#include "model/gguf_file.h"
#include "model/tokenizer.h"
#include "utf8.h"

namespace {

livekv::tokenizer load(const fixtures::vocab_builder & vocab) {
    fixtures::memory_file file;
    vocab.write(file);
    return livekv::tokenizer(livekv::gguf_file(file.path()));
}

std::vector<livekv::tokenizer> make_tokenizers() {
    std::vector<livekv::tokenizer> made;
    for (const bool add_space_prefix : {false, true}) {
        fixtures::vocab_builder vocab("llama", fixtures::spm_tokens());
        gguf_set_val_bool(vocab.gguf, "tokenizer.ggml.add_space_prefix", add_space_prefix);
        made.push_back(load(vocab));
    }
    for (const char * pre : {"llama-bpe", "gpt-2", "smollm", "qwen2", "default"}) {
        fixtures::vocab_builder vocab("gpt2", fixtures::bpe_tokens());
        vocab.set_merges(fixtures::bpe_merges());
        gguf_set_val_str(vocab.gguf, "tokenizer.ggml.pre", pre);
        made.push_back(load(vocab));
    }
    return made;
}

void require(bool holds) {
    if (!holds) {
        std::abort();
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    static const std::vector<livekv::tokenizer> tokenizers = make_tokenizers();
    const std::string given(reinterpret_cast<const char *>(data), size);
    for (const livekv::tokenizer & tok : tokenizers) {
        const std::string text = tok.find("▁") >= 0 ? fixtures::with_marks_as_spaces(given) : given;
        const std::vector<int32_t> ids = tok.encode(given, false, false);
        require(tok.decode(ids, false) == text);
        require(tok.decode(tok.encode(given, false, true), true) == text);
        livekv::stream_decoder stream(tok, true);
        std::string streamed;
        for (const int32_t id : ids) {
            const std::string part = stream.push(id);
            require(!livekv::first_invalid_utf8(part));
            streamed += part;
        }
        require(streamed + stream.finish() == livekv::replace_invalid_utf8(text));
    }
    return 0;
}
