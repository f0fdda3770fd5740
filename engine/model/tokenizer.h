#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace livekv {

class gguf_file;
class special_tokens;
class text_encoder;
struct vocab;

// A piece of a text. The parts of a text are joined before they are cut into tokens, so that words merge across their
// borders; control tokens written out are recognized only inside a part with parse_special, never across its ends.
struct text_part {
    std::string_view text;
    bool parse_special;
};

struct encode_options {
    bool add_bos = true;  // <bos> in front, where the model asks for it and the text goes on behind nothing
    bool add_eos = true;  // <eos> behind, where the model asks for it
    int32_t behind = -1;  // the token that the text goes on behind; -1: it begins a text
    // User-defined tokens that are recognized as control tokens are, only inside a part with parse_special.
    std::span<const int32_t> marks = {};
};

// Text to tokens and back, as the model was trained with: SentencePiece (tokenizer.ggml.model "llama") or byte-level
// BPE ("gpt2"). Const and shareable between threads. Ids outside the vocabulary throw livekv::error.
//
// Any bytes can be encoded; bytes that are not UTF-8 never merge with their neighbours' characters. With a vocabulary
// that has a token for every byte, decode(encode(text, false, false), false) is text, for every text. Exceptions are
// models that ask for extra spaces to be removed (tokenizer.ggml.remove_extra_whitespaces) or for Unicode's form C
// (livekv.tokenizer.nfc), and those that put a space in front only where there is none (livekv.tokenizer.prepend_scheme
// first and each): the first space of a text, or of each piece of it, goes then.
class tokenizer {
  public:
    // Reads tokenizer.ggml.*; throws livekv::error on missing or inconsistent keys and on kinds not supported.
    explicit tokenizer(const gguf_file & file);
    ~tokenizer();
    tokenizer(tokenizer && other) noexcept;

    int32_t n_vocab() const;

    // The tokens of a text made of parts. User-defined tokens are recognized always, but for options.marks. Where the
    // text goes on behind a token of text, nothing is put in front of it, so "th" and "e and" give the text "the and";
    // behind a token that stands for itself (control or user-defined) the model's own rule holds, as inside one text.
    std::vector<int32_t> encode(std::span<const text_part> parts, const encode_options & options) const;

    // One part that begins a text. add_special: with <bos> and <eos> as the model asks.
    std::vector<int32_t> encode(std::string_view text, bool add_special, bool parse_special) const;

    // The bytes of one token, which need not be whole characters. Control and unknown tokens are "" unless
    // render_special.
    std::string token_bytes(int32_t id, bool render_special) const;

    // The bytes of a whole text: without the spaces that encode puts in front of it and behind special tokens.
    std::string decode(const std::vector<int32_t> & ids, bool render_special) const;

    // One step of decode. at_start: whether a text begins with this token, whose first space then goes; updated.
    void decode_next(int32_t id, bool render_special, bool & at_start, std::string & out) const;

    int32_t bos() const;  // -1 when the model has none
    int32_t eos() const;
    int32_t unknown() const;
    bool is_end_of_generation(int32_t id) const;  // eos, and control tokens that end a turn, such as <|im_end|>
    bool adds_bos() const;
    // Whether the model's bos stands in front of a text that already began with it.
    bool begins_with_two_bos(std::span<const int32_t> ids) const;
    bool adds_eos() const;

    int32_t find(std::string_view token_text) const;  // as spelled in the vocabulary; -1 when absent
    bool is_control(int32_t id) const;
    bool is_user_defined(int32_t id) const;
    // Of those that are recognized where they are written out, and of marks: user-defined tokens that count as such.
    std::vector<std::string> control_texts(std::span<const int32_t> marks = {}) const;

    // tokenizer.chat_template, "" when absent; for conversations with tools that of its own where the file has one.
    const std::string & chat_template(bool for_tools = false) const;

  private:
    void check_id(int32_t id) const;
    struct piece;
    void append(const piece & p, std::vector<int32_t> & ids) const;
    void append_text(const piece & p, std::vector<int32_t> & ids) const;
    bool stands_for_itself(int32_t id) const;  // where it is written out: a control or user-defined token

    std::unique_ptr<vocab> vocab_;
    std::unique_ptr<text_encoder> encoder_;
    std::unique_ptr<special_tokens> special_;
};

// Turns a stream of ids into text that is always whole UTF-8 characters: the bytes of an unfinished character wait for
// the next token, bytes that are no character become U+FFFD. Control tokens give no text.
class stream_decoder {
  public:
    // strip_leading_space: the stream is a text of its own, as in decode. Without it the stream continues a prompt and
    // keeps the space between prompt and first word. tok must outlive this object.
    explicit stream_decoder(const tokenizer & tok, bool strip_leading_space = false)
        : tok_(tok), at_start_(strip_leading_space) {}

    std::string push(int32_t id);
    std::string finish();  // what is left; the decoder can go on with another text that continues this one

  private:
    const tokenizer & tok_;
    bool at_start_;
    std::string pending_;  // fewer than 4 bytes: the beginning of a character
};

}  // namespace livekv
