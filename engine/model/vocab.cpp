#include "model/vocab.h"

#include <array>
#include <charconv>
#include <cmath>
#include <optional>

#include "error.h"
#include "model/gguf_file.h"

namespace livekv {

namespace {

// Control tokens that end a turn or a text whatever the file's eos is; chat models often stop with another token.
constexpr std::array end_texts = {"<|im_end|>", "<|eot_id|>", "<|eom_id|>",    "<|end_of_text|>", "<|endoftext|>",
                                  "</s>",       "<|end|>",    "<end_of_turn>", "<eos>",           "<EOT>"};

std::optional<uint8_t> read_byte(std::string_view text) {
    if (text.size() != 6 || !text.starts_with("<0x") || !text.ends_with('>')) {
        return std::nullopt;
    }
    unsigned value = 0;
    const char * end = text.data() + 5;
    if (std::from_chars(end - 2, end, value, 16).ptr != end) {
        return std::nullopt;
    }
    return static_cast<uint8_t>(value);
}

}  // namespace

vocab::vocab(const gguf_file & file) : path(file.path()) {
    model = file.get_string("tokenizer.ggml.model");
    if (model != "llama" && model != "gpt2") {
        fail("'", path, "': tokenizer.ggml.model is '", model, "', supported are llama and gpt2");
    }
    pre = file.find_string("tokenizer.ggml.pre").value_or("default");
    read_tokens(file);
    read_special_tokens(file);
    chat_template = file.find_string("tokenizer.chat_template").value_or("");
}

void vocab::read_tokens(const gguf_file & file) {
    texts = file.get_strings("tokenizer.ggml.tokens");
    if (texts.empty() || texts.size() > INT32_MAX) {
        fail("'", path, "': tokenizer.ggml.tokens has ", texts.size(), " tokens");
    }
    const auto check_count = [&](const char * key, size_t count) {
        if (count != texts.size()) {
            fail("'", path, "': ", key, " has ", count, " values, expected one for each of ", texts.size(), " tokens");
        }
    };
    if (file.has("tokenizer.ggml.token_type") || model == "llama") {
        const std::vector<int32_t> values = file.get_ints("tokenizer.ggml.token_type");
        check_count("tokenizer.ggml.token_type", values.size());
        for (size_t i = 0; i < values.size(); ++i) {
            if (values[i] < 1 || values[i] > 6) {
                fail("'", path, "': token ", i, " has the unknown type ", values[i]);
            }
            types.push_back(static_cast<token_type>(values[i]));
            if (types[i] == token_type::byte && !read_byte(texts[i])) {
                fail("'", path, "': the byte token ", i, " is '", texts[i], "', expected <0x00> to <0xFF>");
            }
        }
    } else {
        types.assign(texts.size(), token_type::normal);
    }
    if (file.has("tokenizer.ggml.scores") || model == "llama") {
        scores = file.get_floats("tokenizer.ggml.scores");
        check_count("tokenizer.ggml.scores", scores.size());
        for (size_t i = 0; i < scores.size(); ++i) {
            if (std::isnan(scores[i])) {
                fail("'", path, "': the score of token ", i, " is not a number");
            }
        }
    }
    if (model == "gpt2") {
        merges = file.get_strings("tokenizer.ggml.merges");
    }
    by_text.reserve(texts.size());
    for (size_t i = 0; i < texts.size(); ++i) {
        by_text[texts[i]] = static_cast<int32_t>(i);
    }
}

void vocab::read_special_tokens(const gguf_file & file) {
    const auto find_id = [&](const char * name) -> int32_t {
        const std::string key = std::string("tokenizer.ggml.") + name + "_token_id";
        const std::optional<uint32_t> id = file.find_u32(key);
        if (id && *id >= texts.size()) {
            fail("'", path, "': ", key, " is ", *id, ", expected less than ", texts.size());
        }
        return id ? static_cast<int32_t>(*id) : -1;
    };
    bos = find_id("bos");
    eos = find_id("eos");
    unknown = find_id("unknown");
    for (int32_t id = 0; unknown < 0 && id < n_tokens(); ++id) {
        if (type(id) == token_type::unknown) {
            unknown = id;
        }
    }
    for (const int32_t id : {eos, find_id("eot"), find_id("eom")}) {
        if (id >= 0) {
            end_of_generation.insert(id);
        }
    }
    for (const char * text : end_texts) {
        const int32_t id = find(text);
        if (id >= 0 && type(id) == token_type::control) {
            end_of_generation.insert(id);
        }
    }
    const bool is_spm = model == "llama";
    const bool is_llama3 = pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3";
    add_bos = file.find_bool("tokenizer.ggml.add_bos_token").value_or(bos >= 0 && (is_spm || is_llama3));
    add_eos = file.find_bool("tokenizer.ggml.add_eos_token").value_or(false);
    if ((add_bos && bos < 0) || (add_eos && eos < 0)) {
        const char * which = add_bos && bos < 0 ? "bos" : "eos";
        fail("'", path, "': tokenizer.ggml.add_", which, "_token is true, but tokenizer.ggml.", which,
             "_token_id is missing");
    }
    add_space_prefix = is_spm && file.find_bool("tokenizer.ggml.add_space_prefix").value_or(true);
    remove_extra_whitespaces = is_spm && file.find_bool("tokenizer.ggml.remove_extra_whitespaces").value_or(false);
}

uint8_t vocab::byte_value(int32_t id) const {
    const std::optional<uint8_t> value = read_byte(text(id));
    LIVEKV_ASSERT(value);
    return *value;
}

int32_t vocab::find(std::string_view text) const {
    const auto at = by_text.find(text);
    return at == by_text.end() ? -1 : at->second;
}

}  // namespace livekv
