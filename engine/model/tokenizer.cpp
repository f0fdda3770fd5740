#include "model/tokenizer.h"

#include <algorithm>

#include "error.h"
#include "model/gguf_file.h"
#include "model/space_marks.h"
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
        out.text.pop_back();
        if (!out.control.empty()) {
            special_tokens::span & last = out.control.back();
            last.begin = std::min(last.begin, out.text.size());
            last.end = std::min(last.end, out.text.size());
        }
    }
    return out;
}

// Part of a text.
joined_text slice(const joined_text & text, size_t begin, size_t end) {
    joined_text out{text.text.substr(begin, end - begin), {}};
    const auto first = std::partition_point(text.control.begin(), text.control.end(),
                                            [&](const special_tokens::span & s) { return s.end <= begin; });
    for (auto s = first; s != text.control.end() && s->begin < end; ++s) {
        out.control.push_back({std::max(s->begin, begin) - begin, std::min(s->end, end) - begin});
    }
    return out;
}

// The same with its spaces written as marks, which are longer.
joined_text marked(const joined_text & text, bool one_in_front) {
    joined_text out{mark_spaces({}, one_in_front), {}};
    size_t at = 0;
    const auto copy_until = [&](size_t end) {
        out.text += mark_spaces(std::string_view(text.text).substr(at, end - at), false);
        at = end;
        return out.text.size();
    };
    for (const special_tokens::span & s : text.control) {
        const size_t begin = s.begin == 0 ? 0 : copy_until(s.begin);  // the space in front belongs to what it precedes
        out.control.push_back({begin, copy_until(s.end)});
    }
    copy_until(text.text.size());
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

// What lies between two tokens that are written out in a text.
struct tokenizer::piece {
    joined_text text;
    bool begins;   // the text
    bool goes_on;  // behind a token of text
};

void tokenizer::append(const piece & p, std::vector<int32_t> & ids) const {
    const bool is_marked = vocab_->normalizes_spaces;
    const joined_text text = is_marked ? marked(p.text, vocab_->prefix == space_prefix::always && !p.goes_on) : p.text;
    size_t at = 0;
    const auto append_until = [&](size_t end) {
        if (at < end) {
            append_text(std::string_view(text.text).substr(at, end - at), p.begins && at == 0, p.goes_on && at == 0,
                        is_marked, ids);
        }
    };
    if (special_->any_normalized()) {
        for (const special_tokens::match & token : special_->find_normalized(text.text, text.control)) {
            append_until(token.begin);
            ids.push_back(token.id);
            at = token.end;
        }
    }
    append_until(text.text.size());
}

void tokenizer::append_text(std::string_view text, bool begins, bool goes_on, bool is_marked,
                            std::vector<int32_t> & ids) const {
    if (vocab_->model != "llama") {
        encoder_->encode(text, ids);
        return;
    }
    const bool has_space = text.starts_with(' ') || text.starts_with(space_mark);
    const bool wanted = vocab_->prefix == space_prefix::each_piece || (vocab_->prefix == space_prefix::first_piece && begins);
    const bool always = vocab_->prefix == space_prefix::always && !is_marked;
    encoder_->encode(mark_spaces(text, !goes_on && (always || (wanted && !has_space))), ids);
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
    const bool is_first = begins || options.behind == vocab_->bos;
    const bool goes_on = !begins && !stands_for_itself(options.behind);
    size_t at = 0;
    const auto append_until = [&](size_t end) {
        if (at < end) {
            append({slice(joined, at, end), is_first && at == 0, goes_on && at == 0}, ids);
        }
    };
    for (const special_tokens::match & token : special_->find(joined.text, joined.control)) {
        append_until(token.begin);
        ids.push_back(token.id);
        at = token.end;
    }
    append_until(joined.text.size());
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
