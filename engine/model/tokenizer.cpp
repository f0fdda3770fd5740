#include "model/tokenizer.h"

#include "error.h"
#include "model/gguf_file.h"
#include "model/joined_text.h"
#include "model/space_marks.h"
#include "model/special_tokens.h"
#include "model/tokenizer_bpe.h"
#include "model/tokenizer_spm.h"
#include "model/vocab.h"
#include "utf8.h"

namespace livekv {

namespace {

// Calls visit for what lies between the found tokens, and appends those.
template <typename Piece, typename Visit>
void split(const Piece & whole, const std::vector<special_tokens::match> & found, std::vector<int32_t> & ids,
           const Visit & visit) {
    size_t at = 0;
    for (const special_tokens::match & token : found) {
        if (at < token.begin) {
            visit(whole.part(at, token.begin));
        }
        ids.push_back(token.id);
        at = token.end;
    }
    if (at < whole.text.text.size()) {
        visit(whole.part(at, whole.text.text.size()));
    }
}

}  // namespace

tokenizer::tokenizer(const gguf_file & file) : vocab_(std::make_unique<vocab>(file)) {
    if (vocab_->model == "llama") {
        encoder_ = std::make_unique<tokenizer_spm>(*vocab_);
    } else {
        encoder_ = std::make_unique<tokenizer_bpe>(*vocab_);
    }
    special_ = std::make_unique<special_tokens>(*vocab_);
    vocab_->merges = {};
}

tokenizer::~tokenizer() = default;
tokenizer::tokenizer(tokenizer && other) noexcept = default;

int32_t tokenizer::n_vocab() const {
    return vocab_->n_tokens();
}
int32_t tokenizer::bos() const {
    return vocab_->bos;
}
int32_t tokenizer::eos() const {
    return vocab_->eos;
}
bool tokenizer::adds_bos() const {
    return vocab_->add_bos;
}
bool tokenizer::adds_eos() const {
    return vocab_->add_eos;
}
int32_t tokenizer::find(std::string_view token_text) const {
    return vocab_->find(token_text);
}
const std::string & tokenizer::chat_template(bool for_tools) const {
    return for_tools && !vocab_->tools_template.empty() ? vocab_->tools_template : vocab_->chat_template;
}

void tokenizer::check_id(int32_t id) const {
    if (id < 0 || id >= n_vocab()) {
        fail("token ", id, " is outside the vocabulary of ", n_vocab(), " tokens");
    }
}

bool tokenizer::is_end_of_generation(int32_t id) const {
    check_id(id);
    return vocab_->end_of_generation.contains(id);
}

bool tokenizer::stands_for_itself(int32_t id) const {
    return vocab_->type(id) == token_type::control || vocab_->type(id) == token_type::user_defined;
}

bool tokenizer::is_control(int32_t id) const {
    check_id(id);
    return vocab_->type(id) == token_type::control;
}

bool tokenizer::is_user_defined(int32_t id) const {
    check_id(id);
    return vocab_->type(id) == token_type::user_defined;
}

int32_t tokenizer::unknown() const {
    return vocab_->unknown;
}

std::vector<std::string> tokenizer::control_texts(std::span<const int32_t> marks) const {
    std::vector<std::string> texts;
    for (const added_token & token : vocab_->added) {
        const std::string & text = vocab_->text(token.id);
        const bool is_mark = std::ranges::find(marks, token.id) != marks.end();
        if ((vocab_->type(token.id) != token_type::user_defined || is_mark) && !text.empty()) {
            texts.push_back(text);
        }
    }
    return texts;
}

// What lies between two tokens that are written out in a text.
struct tokenizer::piece {
    joined_text text;
    bool begins;                     // the text
    bool goes_on;                    // behind a token of text
    std::span<const int32_t> marks;  // of encode_options
    bool is_marked = false;          // its spaces are written as marks

    piece part(size_t from, size_t to) const {
        return {slice(text, from, to), begins && from == 0, goes_on && from == 0, marks, is_marked};
    }
};

void tokenizer::append(const piece & p, std::vector<int32_t> & ids) const {
    piece prepared = p;
    if (vocab_->normalizes_nfc) {
        prepared.text = composed(p.text);
    }
    if (vocab_->normalizes_spaces) {
        prepared.text = marked(prepared.text, vocab_->prefix == space_prefix::always && !p.goes_on);
        prepared.is_marked = true;
    }
    if (!special_->any_normalized()) {
        append_text(prepared, ids);
        return;
    }
    const auto found = special_->find_normalized(prepared.text.text, prepared.text.control, p.marks);
    split(prepared, found, ids, [&](const piece & part) { append_text(part, ids); });
}

void tokenizer::append_text(const piece & p, std::vector<int32_t> & ids) const {
    const std::string & text = p.text.text;
    if (vocab_->model != "llama") {
        encoder_->encode(text, ids);
        return;
    }
    const bool has_space = text.starts_with(' ') || text.starts_with(space_mark);
    bool wanted = false;
    switch (vocab_->prefix) {
        case space_prefix::never:
            break;
        case space_prefix::first_piece:
            wanted = p.begins && !has_space;
            break;
        case space_prefix::each_piece:
            wanted = !has_space;
            break;
        case space_prefix::always:
            wanted = !p.is_marked;  // else it stands there already
            break;
    }
    encoder_->encode(mark_spaces(text, wanted && !p.goes_on), ids);
}

std::vector<int32_t> tokenizer::encode(std::span<const text_part> parts, const encode_options & options) const {
    const bool begins = options.behind < 0;
    if (!begins) {
        check_id(options.behind);
    }
    std::vector<int32_t> ids;
    if (options.add_bos && begins && vocab_->add_bos) {
        ids.push_back(vocab_->bos);
    }
    const bool goes_on = !begins && !stands_for_itself(options.behind);
    const piece whole{join(parts, vocab_->remove_extra_whitespaces, begins), begins || options.behind == vocab_->bos,
                      goes_on, options.marks};
    const auto found = special_->find(whole.text.text, whole.text.control, options.marks);
    split(whole, found, ids, [&](const piece & p) { append(p, ids); });
    if (options.add_eos && vocab_->add_eos) {
        ids.push_back(vocab_->eos);
    }
    return ids;
}

bool tokenizer::begins_with_two_bos(std::span<const int32_t> ids) const {
    return vocab_->add_bos && ids.size() > 1 && ids[0] == vocab_->bos && ids[1] == vocab_->bos;
}

std::vector<int32_t> tokenizer::encode(std::string_view text, bool add_special, bool parse_special) const {
    const text_part whole{text, parse_special};
    return encode({&whole, 1}, {.add_bos = add_special, .add_eos = add_special});
}

std::string tokenizer::token_bytes(int32_t id, bool render_special) const {
    check_id(id);
    switch (vocab_->type(id)) {
        case token_type::control:
        case token_type::unknown:
            return render_special ? vocab_->text(id) : "";
        case token_type::user_defined:
            return vocab_->text(id);
        case token_type::byte:
            return std::string(1, static_cast<char>(vocab_->byte_value(id)));
        default:
            return encoder_->bytes(id);
    }
}

void tokenizer::decode_next(int32_t id, bool render_special, bool & at_start, std::string & out) const {
    const std::string bytes = token_bytes(id, render_special);
    if (stands_for_itself(id)) {
        at_start = vocab_->prefix != space_prefix::first_piece || (at_start && id == vocab_->bos);
        out += bytes;
        return;
    }
    const bool drop_space = at_start && vocab_->prefix != space_prefix::never && bytes.starts_with(' ');
    at_start = at_start && bytes.empty();
    out.append(bytes, drop_space ? 1 : 0);
}

std::string tokenizer::decode(const std::vector<int32_t> & ids, bool render_special) const {
    std::string text;
    bool at_start = true;
    for (const int32_t id : ids) {
        decode_next(id, render_special, at_start, text);
    }
    return text;
}

std::string stream_decoder::push(int32_t id) {
    tok_.decode_next(id, false, at_start_, pending_);
    std::string text;
    std::string_view rest = pending_;
    while (!rest.empty()) {
        const utf8_head head = read_utf8(rest);
        if (head.truncated) {
            break;
        }
        text += head.valid ? rest.substr(0, head.length) : std::string_view("\uFFFD");
        rest.remove_prefix(head.length);
    }
    pending_.erase(0, pending_.size() - rest.size());
    return text;
}

std::string stream_decoder::finish() {
    const std::string text = replace_invalid_utf8(pending_);
    pending_.clear();
    return text;
}

}  // namespace livekv
