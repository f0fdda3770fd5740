#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace livekv {

class gguf_file;

// Values of tokenizer.ggml.token_type.
enum class token_type : int32_t {
    normal = 1,
    unknown = 2,
    control = 3,
    user_defined = 4,
    unused = 5,
    byte = 6,
};

// Where a SentencePiece model puts a space in front. A piece is a text, or what lies between two tokens that are
// written out in it.
enum class space_prefix {
    never,
    first_piece,  // the piece that begins the text, where it does not begin with a space
    each_piece,   // where it does not begin with a space
    always,       // each piece, a space at its beginning or not
};

// A token that is found where it is written out in a text, before the text is cut into tokens.
struct added_token {
    int32_t id;
    bool lstrip = false;       // takes the white space in front of it along
    bool rstrip = false;       // and behind it
    bool single_word = false;  // only where no letter, digit or mark stands beside it
    bool normalized = false;   // looked for in what the others leave, after spaces were replaced
};

// The token list of a GGUF file, checked: equal lengths, known types, special ids inside the list.
struct vocab {
    explicit vocab(const gguf_file & file);
    vocab(const vocab &) = delete;  // by_text looks into texts
    vocab & operator=(const vocab &) = delete;

    int32_t n_tokens() const { return static_cast<int32_t>(texts.size()); }
    int32_t find(std::string_view text) const;  // -1 when absent; the last of several equal texts
    token_type type(int32_t id) const { return types[static_cast<size_t>(id)]; }
    const std::string & text(int32_t id) const { return texts[static_cast<size_t>(id)]; }

    // Tokens that text is cut into. The others stand for themselves only where they are written out in the text.
    bool is_text(int32_t id) const { return type(id) == token_type::normal || type(id) == token_type::unused; }
    // Tokens that merges may give: also the added ones that the file says are of the model's own vocabulary.
    bool may_be_merged(int32_t id) const {
        return is_text(id) || (type(id) == token_type::user_defined && added_in_vocabulary.contains(id));
    }
    uint8_t byte_value(int32_t id) const;  // of a byte token, <0x41>

    std::string path;   // for messages
    std::string model;  // tokenizer.ggml.model
    std::string pre;    // tokenizer.ggml.pre, "default" when absent

    std::vector<std::string> texts;   // [n_tokens]
    std::vector<token_type> types;    // [n_tokens]
    std::vector<float> scores;        // [n_tokens], or empty when the file has none
    std::vector<std::string> merges;  // "left right", best first; empty when the file has none
    std::vector<added_token> added;   // control and user-defined ones, without flags where the file has none

    int32_t bos = -1;  // -1: the model has none
    int32_t eos = -1;
    int32_t unknown = -1;
    bool add_bos = false;
    bool add_eos = false;
    space_prefix prefix = space_prefix::never;
    bool normalizes_nfc = false;        // to Unicode's form C, before normalized added tokens are looked for
    bool normalizes_spaces = false;     // spaces are replaced before normalized added tokens are looked for
    bool splits_at_spaces = false;      // no token but the added ones has a space behind its first character
    bool fuse_unknown = false;          // one unknown token for a run of unknown characters
    std::optional<bool> ignore_merges;  // none: as its pre-tokenizer's family does
    bool remove_extra_whitespaces = false;
    std::unordered_set<int32_t> end_of_generation;
    std::unordered_set<int32_t> added_in_vocabulary;  // added tokens that are of the model's own vocabulary too
    std::string chat_template;
    std::string tools_template;  // for conversations with tools; "" when it is the same

  private:
    void read_tokens(const gguf_file & file);
    void read_special_tokens(const gguf_file & file);
    void check_listed(const char * key, int32_t id) const;
    void read_rules(const gguf_file & file);
    bool is_phi3() const;
    void read_added_tokens(const gguf_file & file);

    std::unordered_map<std::string_view, int32_t> by_text;
};

}  // namespace livekv
