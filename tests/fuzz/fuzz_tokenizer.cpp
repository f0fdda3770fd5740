// The first byte chooses a small vocabulary, the second what is done with the rest: any bytes as a text, as the parts
// of one, or as ids. Where a vocabulary has a token for each byte, decoding gives a text back; streams give whole
// characters and, in all, what decode gives.

#include <cstdint>
#include <string>
#include <vector>

#include "../fixtures/small_vocab.h"
#include "model/gguf_file.h"
#include "model/gguf_keys.h"
#include "model/tokenizer.h"
#include "target.h"
#include "utf8.h"

namespace {

struct subject {
    livekv::tokenizer tok;
    bool gives_back;        // each text
    bool marks_are_spaces;  // in what it gives back
    bool drops_space;       // the first one of a text, and of what stands behind <mark>
};

subject made(const fixtures::vocab_builder & vocab, bool gives_back, bool marks_are_spaces, bool drops_space) {
    fixtures::memory_file file;
    vocab.write(file);
    return {livekv::tokenizer(livekv::gguf_file(file.path())), gives_back, marks_are_spaces, drops_space};
}

// lstrip, rstrip, single_word, normalized and in-vocabulary by turns, for the tokens that stand for themselves.
void flag_added_tokens(gguf_context * gguf, std::vector<int32_t> ids) {
    std::vector<int32_t> flags;
    for (const int32_t id : ids) {
        flags.push_back((id * 7 + 3) % 32);
    }
    gguf_set_arr_data(gguf, livekv::keys::added_tokens, GGUF_TYPE_INT32, ids.data(), ids.size());
    gguf_set_arr_data(gguf, livekv::keys::added_token_flags, GGUF_TYPE_INT32, flags.data(), flags.size());
}

// bits: what the file says of spaces, unknown characters and added tokens.
subject spm(const char * scheme, unsigned bits) {
    const bool with_bytes = !(bits & 1);
    const std::vector<fixtures::token> tokens = fixtures::spm_tokens(with_bytes);
    const auto n = static_cast<int32_t>(tokens.size());
    fixtures::vocab_builder vocab("llama", tokens);
    gguf_context * g = vocab.gguf;
    gguf_set_val_u32(g, "tokenizer.ggml.bos_token_id", 1);
    gguf_set_val_u32(g, "tokenizer.ggml.eos_token_id", 2);
    gguf_set_val_bool(g, "tokenizer.ggml.add_eos_token", bits & 2);
    gguf_set_val_str(g, livekv::keys::prepend_scheme, scheme);
    gguf_set_val_bool(g, livekv::keys::normalizes_spaces, bits & 4);
    gguf_set_val_bool(g, livekv::keys::splits_at_spaces, bits & 8);
    gguf_set_val_bool(g, livekv::keys::fuse_unknown, bits & 16);
    gguf_set_val_bool(g, "tokenizer.ggml.remove_extra_whitespaces", bits & 32);
    if (bits & 64) {
        const char * merges[] = {"a b", "\u2581 a", "\u2581 ab", "ab c", "\u2581 \u2581", "< s"};
        gguf_set_arr_str(g, livekv::keys::spm_merges, merges, std::size(merges));
    }
    if (bits & 128) {
        flag_added_tokens(g, {1, 2, n - 2, n - 1});
    }
    return made(vocab, with_bytes && !(bits & (4 | 32 | 128)), true,
                std::string(scheme) == "first" || std::string(scheme) == "each");
}

subject bpe(const char * pre, unsigned bits) {
    const std::vector<fixtures::token> tokens = fixtures::bpe_tokens();
    const auto n = static_cast<int32_t>(tokens.size());
    fixtures::vocab_builder vocab("gpt2", tokens);
    vocab.set_merges(fixtures::bpe_merges());
    gguf_set_val_str(vocab.gguf, "tokenizer.ggml.pre", pre);
    gguf_set_val_u32(vocab.gguf, "tokenizer.ggml.bos_token_id", static_cast<uint32_t>(n - 2));
    if (bits & 1) {
        gguf_set_val_bool(vocab.gguf, livekv::keys::ignore_merges, bits & 2);
    }
    gguf_set_val_bool(vocab.gguf, livekv::keys::normalizes_nfc, bits & 8);
    if (bits & 4) {
        flag_added_tokens(vocab.gguf, {n - 2, n - 1});
    }
    return made(vocab, !(bits & (4 | 8)), false, false);
}

std::vector<subject> make_subjects() {
    std::vector<subject> all;
    for (const char * scheme : {"never", "first", "each", "always"}) {
        for (const unsigned bits :
             {0u, 2u, 4u, 8u, 1u | 16u, 32u, 64u, 4u | 64u | 128u, 8u | 64u | 128u, 1u | 32u | 128u}) {
            all.push_back(spm(scheme, bits));
        }
    }
    for (const char * pre :
         {"llama-bpe", "gpt-2", "smollm", "qwen2", "tekken", "gpt-4o", "deepseek-coder", "default"}) {
        for (const unsigned bits : {0u, 1u, 3u, 4u, 8u, 12u}) {
            all.push_back(bpe(pre, bits));
        }
    }
    return all;
}

void check_stream(const livekv::tokenizer & tok, const std::vector<int32_t> & ids) {
    livekv::stream_decoder stream(tok, true);
    std::string streamed;
    for (const int32_t id : ids) {
        const std::string part = stream.push(id);
        fuzz::require(!livekv::first_invalid_utf8(part), "half a character in a stream");
        streamed += part;
    }
    const std::string whole = livekv::replace_invalid_utf8(tok.decode(ids, false));
    fuzz::require(streamed + stream.finish() == whole, "a stream gives another text than decode");
}

void as_text(const subject & s, const std::string & text) {
    const std::vector<int32_t> ids = s.tok.encode(text, false, false);
    if (s.gives_back && !(s.drops_space && text.find("<mark>") != std::string::npos)) {
        std::string expected = s.marks_are_spaces ? fixtures::with_marks_as_spaces(text) : text;
        expected.erase(0, s.drops_space && expected.starts_with(' ') ? 1 : 0);
        fuzz::require(s.tok.decode(ids, false) == expected, "decode does not give the text back");
        if (!s.drops_space) {
            fuzz::require(s.tok.decode(s.tok.encode(text, false, true), true) == expected,
                          "decode does not give a text with control tokens back");
        }
    }
    for (const int32_t id : ids) {
        fuzz::require(!s.tok.is_control(id), "a control token of a text that may have none");
    }
    check_stream(s.tok, ids);
    check_stream(s.tok, s.tok.encode(text, true, true));
}

// 0xFF ends a part; each part's first byte says whether control tokens count in it.
void as_parts(const subject & s, const std::string & bytes, int32_t behind) {
    std::vector<livekv::text_part> parts;
    for (size_t from = 0; from < bytes.size();) {
        const size_t to = std::min(bytes.find('\xFF', from), bytes.size());
        if (from < to) {
            parts.push_back({std::string_view(bytes).substr(from + 1, to - from - 1), (bytes[from] & 1) != 0});
        }
        from = to + 1;
    }
    check_stream(s.tok, s.tok.encode(parts, {.add_bos = true, .add_eos = true, .behind = behind}));
}

void as_ids(const subject & s, const std::string & bytes) {
    std::vector<int32_t> ids;
    for (size_t i = 0; i + 1 < bytes.size(); i += 2) {
        const int32_t id = static_cast<uint8_t>(bytes[i]) | static_cast<int8_t>(bytes[i + 1]) * 256;
        ids.push_back(id < 0 ? id : id % (s.tok.n_vocab() + 1));
    }
    s.tok.decode(ids, true);
    check_stream(s.tok, ids);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    static const std::vector<subject> subjects = make_subjects();
    if (size < 2) {
        return 0;
    }
    const subject & s = subjects[data[0] % subjects.size()];
    const std::string rest(reinterpret_cast<const char *>(data) + 2, size - 2);
    const fuzz::limits limit(size);
    try {
        switch (data[1] % 4) {
            case 0:
                as_ids(s, rest);
                break;
            case 1:
                as_parts(s, rest, data[1] / 4 - 1);
                break;
            default:
                as_text(s, rest);
        }
    } catch (const livekv::error & problem) {
        fuzz::expected(problem, data, size);
    }
    return 0;
}
