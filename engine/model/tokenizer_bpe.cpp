#include "model/tokenizer_bpe.h"

#include "model/vocab.h"
#include "utf8.h"

namespace livekv {

namespace {

// GPT-2's alphabet: bytes that print in Latin-1 stand for themselves, the others follow from U+0100 in order.
struct byte_alphabet {
    std::array<char32_t, 256> character;
    std::unordered_map<char32_t, uint8_t> byte;

    byte_alphabet() {
        char32_t next = 0x100;
        for (char32_t b = 0; b < 256; ++b) {
            const bool prints = (b > 0x20 && b < 0x7F) || (b > 0xA0 && b != 0xAD);
            character[b] = prints ? b : next++;
            byte[character[b]] = static_cast<uint8_t>(b);
        }
    }
};

const byte_alphabet & alphabet() {
    static const byte_alphabet instance;
    return instance;
}

// What a token's text stands for; is_plain tells whether all of it is written in the alphabet. The rest passes through.
std::string read_alphabet(std::string_view text, bool & is_plain) {
    std::string out;
    is_plain = true;
    while (!text.empty()) {
        const utf8_head head = read_utf8(text);
        const std::string_view character = text.substr(0, head.length);
        const auto at = head.valid ? alphabet().byte.find(code_point(character)) : alphabet().byte.end();
        if (at == alphabet().byte.end()) {
            is_plain = false;
            out += character;
        } else {
            out += static_cast<char>(at->second);
        }
        text.remove_prefix(head.length);
    }
    return out;
}

}  // namespace

tokenizer_bpe::tokenizer_bpe(const vocab & tokens)
    : tokens_(tokens),
      words_(tokens.pre),
      merges_(tokens),
      ignores_merges_(tokens.ignore_merges.value_or(words_.ignores_merges())) {
    bytes_.resize(static_cast<size_t>(tokens.n_tokens()));
    for (int32_t id = 0; id < tokens.n_tokens(); ++id) {
        bool is_plain = false;
        std::string & token = bytes_[static_cast<size_t>(id)];
        token = read_alphabet(tokens.text(id), is_plain);
        if (is_plain && tokens.may_be_merged(id) && !token.empty()) {
            by_bytes_[token] = id;
        }
    }
    for (size_t b = 0; b < by_byte_.size(); ++b) {
        std::string text;
        append_utf8(text, alphabet().character[b]);
        by_byte_[b] = tokens.find(text);
        if (by_byte_[b] >= 0) {  // a control token, too, where it is all there is for a byte: none is lost
            by_bytes_.try_emplace(bytes_[static_cast<size_t>(by_byte_[b])], by_byte_[b]);
        }
    }
}

void tokenizer_bpe::encode(std::string_view text, std::vector<int32_t> & out) const {
    symbol_merger merger;
    for (const std::string_view word : words_.split(text)) {
        append_word(word, merger, out);
    }
}

void tokenizer_bpe::append_word(std::string_view word, symbol_merger & merger, std::vector<int32_t> & out) const {
    if (ignores_merges_) {
        if (const auto whole = by_bytes_.find(word); whole != by_bytes_.end()) {
            out.push_back(whole->second);
            return;
        }
    }
    merger.clear();
    for (size_t i = 0; i < word.size(); ++i) {
        merger.add(word.substr(i, 1), by_byte_[static_cast<uint8_t>(word[i])]);
    }
    merger.run([&](const auto & left, const auto & right) -> std::optional<symbol_merger::merge> {
        return merges_.find(left.id, right.id);
    });
    merger.for_each([&](const auto & symbol) {
        if (symbol.id >= 0 && tokens_.may_be_merged(symbol.id)) {
            out.push_back(symbol.id);
            return;
        }
        for (size_t i = 0; i < symbol.text.size(); ++i) {
            const auto byte = by_bytes_.find(symbol.text.substr(i, 1));
            const int32_t id = byte == by_bytes_.end() ? tokens_.unknown : byte->second;
            if (id >= 0) {
                out.push_back(id);
            }
        }
    });
}

}  // namespace livekv
