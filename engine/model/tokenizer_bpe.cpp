#include "model/tokenizer_bpe.h"

#include "error.h"
#include "utf8.h"
#include "model/vocab.h"

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

char32_t code_point(std::string_view character) {
    const auto bits = [&](size_t i) { return static_cast<char32_t>(static_cast<uint8_t>(character[i])) & 0x3F; };
    const auto lead = static_cast<char32_t>(static_cast<uint8_t>(character[0]));
    switch (character.size()) {
        case 1:
            return lead;
        case 2:
            return (lead & 0x1F) << 6 | bits(1);
        case 3:
            return (lead & 0x0F) << 12 | bits(1) << 6 | bits(2);
        default:
            return (lead & 0x07) << 18 | bits(1) << 12 | bits(2) << 6 | bits(3);
    }
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

uint64_t pair_key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

tokenizer_bpe::tokenizer_bpe(const vocab & tokens) : tokens_(tokens), words_(tokens.pre) {
    bytes_.resize(static_cast<size_t>(tokens.n_tokens()));
    for (int32_t id = 0; id < tokens.n_tokens(); ++id) {
        bool is_plain = false;
        std::string & token = bytes_[static_cast<size_t>(id)];
        token = read_alphabet(tokens.text(id), is_plain);
        if (is_plain && tokens.is_text(id) && !token.empty()) {
            by_bytes_[token] = id;
        }
    }
    for (size_t b = 0; b < by_byte_.size(); ++b) {
        std::string text;
        append_utf8(text, alphabet().character[b]);
        by_byte_[b] = tokens.find(text);
    }
    read_merges();
}

void tokenizer_bpe::read_merges() {
    merges_.reserve(tokens_.merges.size());
    for (size_t rank = 0; rank < tokens_.merges.size(); ++rank) {
        const std::string_view line = tokens_.merges[rank];
        const size_t space = line.find(' ');
        if (space == std::string_view::npos || space == 0 || space + 1 == line.size()) {
            fail("'", tokens_.path, "': merge ", rank, " is '", line, "', expected two tokens with a space between");
        }
        const std::string_view left = line.substr(0, space);
        const std::string_view right = line.substr(space + 1);
        const auto id_of = [&](const std::string & text) {
            const int32_t id = tokens_.find(text);
            if (id < 0) {
                fail("'", tokens_.path, "': merge ", rank, " ('", line, "') needs the token '", text,
                     "', which is missing");
            }
            return id;
        };
        const int32_t left_id = id_of(std::string(left));
        const int32_t right_id = id_of(std::string(right));
        const int32_t id = id_of(std::string(left) + std::string(right));
        merges_.emplace(pair_key(left_id, right_id), symbol_merger::merge{static_cast<double>(rank), id});
    }
}

void tokenizer_bpe::encode(std::string_view text, bool space_in_front, std::vector<int32_t> & out) const {
    LIVEKV_ASSERT(!space_in_front);
    symbol_merger merger;
    for (const std::string_view word : words_.split(text)) {
        append_word(word, merger, out);
    }
}

void tokenizer_bpe::append_word(std::string_view word, symbol_merger & merger, std::vector<int32_t> & out) const {
    if (words_.ignores_merges()) {
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
        const auto found = merges_.find(pair_key(left.id, right.id));
        return found == merges_.end() ? std::nullopt : std::optional(found->second);
    });
    merger.for_each([&](const auto & symbol) {
        if (symbol.id >= 0 && tokens_.is_text(symbol.id)) {
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
