#include "model/tokenizer_spm.h"

#include "model/space_marks.h"
#include "model/symbol_merger.h"
#include "model/vocab.h"
#include "utf8.h"

namespace livekv {

tokenizer_spm::tokenizer_spm(const vocab & tokens) : tokens_(tokens), merges_(tokens) {
    by_byte_.fill(-1);
    for (int32_t id = 0; id < tokens.n_tokens(); ++id) {
        std::string_view text = tokens.text(id);
        if (tokens.type(id) == token_type::byte) {
            by_byte_[tokens.byte_value(id)] = id;
        } else if ((tokens.may_be_merged(id) || is_symbol_alone(id) || is_unknown_piece(id)) && !text.empty()) {
            if (!tokens.is_text(id)) {
                text = marked_.emplace_back(mark_spaces(text, false));
            }
            by_text_[text] = id;
            longest_ = std::max(longest_, text.size());
            size_t word = 0;
            while (text.substr(word).starts_with(space_mark)) {
                word += space_mark.size();
            }
            merges_across_words_ = merges_across_words_ || text.find(space_mark, word) != std::string_view::npos;
        }
    }
}

// A control token that the vocabulary has as a piece: what a list of merges joins, and never what they end with.
bool tokenizer_spm::is_symbol_alone(int32_t id) const {
    return !merges_.empty() && tokens_.type(id) == token_type::control && tokens_.added_in_vocabulary.contains(id);
}

// With a list of merges the piece that stands for what is unknown is one like others, should a text spell it.
bool tokenizer_spm::is_unknown_piece(int32_t id) const {
    return !merges_.empty() && tokens_.type(id) == token_type::unknown;
}

int32_t tokenizer_spm::find(std::string_view text) const {
    if (text.size() > longest_) {
        return -1;
    }
    const auto at = by_text_.find(text);
    return at == by_text_.end() ? -1 : at->second;
}

void tokenizer_spm::encode(std::string_view text, std::vector<int32_t> & out) const {
    // Words are merged one by one unless a token could join two: the same result, with a queue that stays in the cache.
    symbol_merger merger;
    const size_t first = out.size();
    bool after_space = true;
    for (size_t at = 0; at < text.size();) {
        const utf8_head head = read_utf8(text.substr(at));
        const std::string_view character = text.substr(at, head.valid ? head.length : 1);
        const bool is_space = character == space_mark;
        if (is_space && (tokens_.splits_at_spaces || (!after_space && !merges_across_words_))) {
            append_merged(merger, first, out);
        }
        after_space = is_space;
        merger.add(character, find(character));
        at += character.size();
    }
    append_merged(merger, first, out);
}

void tokenizer_spm::append_merged(symbol_merger & merger, size_t first, std::vector<int32_t> & out) const {
    merger.run([&](const auto & left, const auto & right) -> std::optional<symbol_merger::merge> {
        if (!merges_.empty()) {
            return merges_.find(left.id, right.id);
        }
        const int32_t id = find(symbol_merger::joined(left, right));
        if (id < 0) {
            return std::nullopt;
        }
        return symbol_merger::merge{-static_cast<double>(tokens_.scores[static_cast<size_t>(id)]), id};
    });
    merger.for_each([&](const auto & symbol) {
        if (symbol.id >= 0 && !is_symbol_alone(symbol.id)) {
            out.push_back(symbol.id);
        } else {
            append_characters(symbol.text, first, out);
        }
    });
    merger.clear();
}

void tokenizer_spm::append_characters(std::string_view text, size_t first, std::vector<int32_t> & out) const {
    for (size_t at = 0; at < text.size();) {
        const utf8_head head = read_utf8(text.substr(at));
        const std::string_view character = text.substr(at, head.valid ? head.length : 1);
        const int32_t id = find(character);
        if (id >= 0 && !is_symbol_alone(id)) {
            out.push_back(id);
        } else {
            append_bytes(merges_.empty() && character == space_mark ? " " : character, first, out);
        }
        at += character.size();
    }
}

void tokenizer_spm::append_bytes(std::string_view character, size_t first, std::vector<int32_t> & out) const {
    const size_t before = out.size();
    for (const char c : character) {
        const int32_t id = by_byte_[static_cast<uint8_t>(c)];
        if (id < 0) {
            out.resize(before);
            const bool in_run = tokens_.fuse_unknown && out.size() > first && out.back() == tokens_.unknown;
            if (tokens_.unknown >= 0 && !in_run) {
                out.push_back(tokens_.unknown);
            }
            return;
        }
        out.push_back(id);
    }
}

std::string tokenizer_spm::bytes(int32_t id) const {
    return unmark_spaces(tokens_.text(id));
}

}  // namespace livekv
