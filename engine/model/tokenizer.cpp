#include "model/tokenizer.h"

#include "error.h"
#include "model/gguf_file.h"
#include "model/special_tokens.h"
#include "model/tokenizer_bpe.h"
#include "model/tokenizer_spm.h"
#include "model/utf8.h"
#include "model/vocab.h"

namespace livekv {

namespace {

// A text's parts in one string, and where in it control tokens count.
struct joined_text {
    std::string text;
    std::vector<special_tokens::span> control;
};

// tidy: as SentencePiece's remove_extra_whitespaces, with no space at either end and one where several were; the
// beginning of a text that goes on behind another (begins is false) is no end.
joined_text join(std::span<const text_part> parts, bool tidy, bool begins) {
    joined_text out;
    for (const text_part & part : parts) {
        const size_t begin = out.text.size();
        for (const char c : part.text) {
            const bool extra = tidy && c == ' ' && (out.text.empty() ? begins : out.text.back() == ' ');
            if (!extra) {
                out.text += c;
            }
        }
        if (part.parse_special) {
            out.control.push_back({begin, out.text.size()});
        }
    }
    if (tidy && out.text.ends_with(' ')) {
        out.text.pop_back();  // a span may end one behind the text now, which no token does
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

bool tokenizer::stands_for_itself(int32_t id) const {
    return vocab_->type(id) == token_type::control || vocab_->type(id) == token_type::user_defined;
}

bool tokenizer::is_control(int32_t id) const {
    check_id(id);
    return vocab_->type(id) == token_type::control;
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
    const joined_text joined = join(parts, vocab_->remove_extra_whitespaces, begins);
    const std::string_view text = joined.text;
    bool space_in_front = vocab_->add_space_prefix && (begins || stands_for_itself(options.behind));
    for (size_t at = 0; at < text.size();) {
        const special_tokens::match special = special_->find(text, at, joined.control);
        if (special.begin > at) {
            encoder_->encode(text.substr(at, special.begin - at), space_in_front, ids);
        }
        if (special.id >= 0) {
            ids.push_back(special.id);
        }
        space_in_front = vocab_->add_space_prefix;
        at = special.end;
    }
    if (options.add_eos && vocab_->add_eos) {
        ids.push_back(vocab_->eos);
    }
    return ids;
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
