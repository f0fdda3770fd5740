#include "model/tokenizer.h"

#include "error.h"
#include "model/gguf_file.h"
#include "model/special_tokens.h"
#include "model/tokenizer_bpe.h"
#include "model/tokenizer_spm.h"
#include "utf8.h"
#include "model/vocab.h"

namespace livekv {

namespace {

// SentencePiece's remove_extra_whitespaces: no space at either end, one where several were.
std::string without_extra_spaces(std::string_view text) {
    std::string out;
    for (const char c : text) {
        if (c != ' ' || (!out.empty() && out.back() != ' ')) {
            out += c;
        }
    }
    if (out.ends_with(' ')) {
        out.pop_back();
    }
    return out;
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

int32_t tokenizer::n_vocab() const { return vocab_->n_tokens(); }
int32_t tokenizer::bos() const { return vocab_->bos; }
int32_t tokenizer::eos() const { return vocab_->eos; }
bool tokenizer::adds_bos() const { return vocab_->add_bos; }
bool tokenizer::adds_eos() const { return vocab_->add_eos; }
int32_t tokenizer::find(std::string_view token_text) const { return vocab_->find(token_text); }
const std::string & tokenizer::chat_template() const { return vocab_->chat_template; }

void tokenizer::check_id(int32_t id) const {
    if (id < 0 || id >= n_vocab()) {
        fail("token ", id, " is outside the vocabulary of ", n_vocab(), " tokens");
    }
}

bool tokenizer::is_end_of_generation(int32_t id) const {
    check_id(id);
    return vocab_->end_of_generation.contains(id);
}

bool tokenizer::is_control(int32_t id) const {
    check_id(id);
    return vocab_->type(id) == token_type::control;
}

std::vector<int32_t> tokenizer::encode(std::string_view text, bool add_special, bool parse_special) const {
    std::vector<int32_t> ids;
    if (add_special && vocab_->add_bos) {
        ids.push_back(vocab_->bos);
    }
    std::string tidied;
    if (vocab_->remove_extra_whitespaces) {
        tidied = without_extra_spaces(text);
        text = tidied;
    }
    for (size_t at = 0; at < text.size();) {
        const special_tokens::match special = special_->find(text, at, parse_special);
        if (special.begin > at) {
            encoder_->encode(text.substr(at, special.begin - at), vocab_->add_space_prefix, ids);
        }
        if (special.id >= 0) {
            ids.push_back(special.id);
        }
        at = special.end;
    }
    if (add_special && vocab_->add_eos) {
        ids.push_back(vocab_->eos);
    }
    return ids;
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
    const token_type type = vocab_->type(id);
    if (type == token_type::control || type == token_type::user_defined) {
        at_start = true;
        out += bytes;
        return;
    }
    const bool drop_space = at_start && vocab_->add_space_prefix && bytes.starts_with(' ');
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
