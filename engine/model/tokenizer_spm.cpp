#include "model/tokenizer_spm.h"

#include "model/symbol_merger.h"
#include "utf8.h"
#include "model/vocab.h"

namespace livekv {

namespace {

constexpr std::string_view space_mark = "\u2581";

// Ids of symbols that are no token: a character that may still merge, and a U+2581 of the text, which must not.
constexpr int32_t no_token = -1;
constexpr int32_t literal_mark = -2;

}  // namespace

tokenizer_spm::tokenizer_spm(const vocab & tokens) : tokens_(tokens) {
    by_byte_.fill(-1);
    for (int32_t id = 0; id < tokens.n_tokens(); ++id) {
        const std::string_view text = tokens.text(id);
        if (tokens.type(id) == token_type::byte) {
            by_byte_[tokens.byte_value(id)] = id;
        } else if (tokens.is_text(id) && !text.empty()) {
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

int32_t tokenizer_spm::find(std::string_view text) const {
    if (text.size() > longest_) {
        return no_token;
    }
    const auto at = by_text_.find(text);
    return at == by_text_.end() ? no_token : at->second;
}

void tokenizer_spm::encode(std::string_view text, bool space_in_front, std::vector<int32_t> & out) const {
    std::string marked;  // text with its spaces written as U+2581
    marked.reserve(text.size() + text.size() / 2);
    std::vector<size_t> literals;  // offsets in marked of what was U+2581 already
    if (space_in_front) {
        marked += space_mark;
    }
    for (size_t at = 0; at < text.size(); ++at) {
        if (text[at] == ' ') {
            marked += space_mark;
            continue;
        }
        if (text.substr(at, space_mark.size()) == space_mark) {
            literals.push_back(marked.size());
        }
        marked += text[at];
    }

    // Words are merged one by one unless a token could join two: the same result, with a queue that stays in the cache.
    symbol_merger merger;
    size_t next_literal = 0;
    bool after_space = true;
    for (size_t at = 0; at < marked.size();) {
        const std::string_view rest = std::string_view(marked).substr(at);
        const utf8_head head = read_utf8(rest);
        const std::string_view character = rest.substr(0, head.valid ? head.length : 1);
        const bool is_literal = next_literal < literals.size() && literals[next_literal] == at;
        next_literal += is_literal;
        const bool is_space = character == space_mark;
        if (is_space && !after_space && !merges_across_words_) {
            append_merged(merger, out);
        }
        after_space = is_space;
        merger.add(character, is_literal ? literal_mark : find(character));
        at += character.size();
    }
    append_merged(merger, out);
}

void tokenizer_spm::append_merged(symbol_merger & merger, std::vector<int32_t> & out) const {
    merger.run([&](const auto & left, const auto & right) -> std::optional<symbol_merger::merge> {
        if (left.id == literal_mark || right.id == literal_mark) {
            return std::nullopt;
        }
        const int32_t id = find(symbol_merger::joined(left, right));
        if (id < 0) {
            return std::nullopt;
        }
        return symbol_merger::merge{-static_cast<double>(tokens_.scores[static_cast<size_t>(id)]), id};
    });
    merger.for_each([&](const auto & symbol) {
        if (symbol.id >= 0) {
            out.push_back(symbol.id);
        } else {
            const bool is_space = symbol.id == no_token && symbol.text == space_mark;
            append_bytes(is_space ? " " : symbol.text, out);
        }
    });
    merger.clear();
}

void tokenizer_spm::append_bytes(std::string_view character, std::vector<int32_t> & out) const {
    const size_t before = out.size();
    for (const char c : character) {
        const int32_t id = by_byte_[static_cast<uint8_t>(c)];
        if (id < 0) {
            out.resize(before);
            if (tokens_.unknown >= 0) {
                out.push_back(tokens_.unknown);
            }
            return;
        }
        out.push_back(id);
    }
}

std::string tokenizer_spm::bytes(int32_t id) const {
    std::string_view text = tokens_.text(id);
    std::string out;
    for (size_t mark = text.find(space_mark); mark != std::string_view::npos; mark = text.find(space_mark)) {
        out.append(text.substr(0, mark)).append(" ");
        text.remove_prefix(mark + space_mark.size());
    }
    return out.append(text);
}

}  // namespace livekv
