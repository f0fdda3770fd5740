#include "model/vocab.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <optional>

#include "error.h"
#include "model/gguf_file.h"
#include "model/gguf_keys.h"
#include "model/leftovers.h"
#include "model/pretokenizer_families.h"

namespace livekv {

namespace {

// Control tokens that end a turn or a text whatever the file's eos is; chat models often stop with another token.
constexpr std::array end_texts = {"<|im_end|>", "<|eot_id|>", "<|eom_id|>",    "<|end_of_text|>", "<|endoftext|>",
                                  "</s>",       "<|end|>",    "<end_of_turn>", "<eos>",           "<EOT>"};

// What chat models begin and end turns with. Some files of other tools call them user-defined, and then everyone could
// write them.
constexpr std::array turn_marks = {
    "<|im_start|>",    "<|im_end|>",    "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>",
    "<start_of_turn>", "<end_of_turn>", "<|end_of_text|>",     "<|endoftext|>",     "<|end|>"};

constexpr struct {
    std::string_view name;
    space_prefix value;
} prefix_names[] = {{"never", space_prefix::never},
                    {"first", space_prefix::first_piece},
                    {"each", space_prefix::each_piece},
                    {"always", space_prefix::always}};

// Bits of livekv.tokenizer.added_token_flags.
enum added_flag : int32_t { lstrip = 1, rstrip = 2, single_word = 4, normalized = 8, in_vocabulary = 16 };

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
    if (file.has("tokenizer.ggml.precompiled_charsmap")) {
        fail("'", path,
             "': tokenizer.ggml.precompiled_charsmap is not supported, and changes what a text's tokens are");
    }
    refuse_unread_tokenizer_keys(file);
    pre = file.find_string("tokenizer.ggml.pre").value_or("default");
    read_tokens(file);
    read_special_tokens(file);
    read_rules(file);
    read_added_tokens(file);
    chat_template = file.find_string("tokenizer.chat_template").value_or("");
    tools_template = file.find_string("tokenizer.chat_template.tool_use").value_or("");
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
        if (id == UINT32_MAX) {
            return -1;  // how some tools write none
        }
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
    const auto make_control = [&](int32_t id) {  // our own converter's files say of each what it is
        if (id >= 0 && type(id) == token_type::user_defined && !file.has(keys::added_tokens)) {
            types[static_cast<size_t>(id)] = token_type::control;
        }
    };
    make_control(bos);
    for (const int32_t id : {eos, find_id("eot"), find_id("eom")}) {
        make_control(id);
        if (id >= 0) {
            end_of_generation.insert(id);
        }
    }
    if (file.has(keys::eos_token_ids)) {
        for (const int32_t id : file.get_ints(keys::eos_token_ids)) {
            check_listed(keys::eos_token_ids, id);
            end_of_generation.insert(id);
        }
    }
    for (const char * text : turn_marks) {
        make_control(find(text));
    }
    for (const char * text : end_texts) {
        const int32_t id = find(text);
        if (id >= 0 && type(id) == token_type::control) {
            end_of_generation.insert(id);
        }
    }
    const bool usual = model == "llama" || pretokenizer_rules_of(pre).adds_bos;
    add_bos = file.find_bool("tokenizer.ggml.add_bos_token").value_or(bos >= 0 && usual);
    add_eos = file.find_bool("tokenizer.ggml.add_eos_token").value_or(false);
    if ((add_bos && bos < 0) || (add_eos && eos < 0)) {
        const char * which = add_bos && bos < 0 ? "bos" : "eos";
        fail("'", path, "': tokenizer.ggml.add_", which, "_token is true, but tokenizer.ggml.", which,
             "_token_id is missing");
    }
}

void vocab::check_listed(const char * key, int32_t id) const {
    if (id < 0 || id >= n_tokens()) {
        fail("'", path, "': ", key, " has ", id, ", expected less than ", n_tokens());
    }
}

void vocab::read_rules(const gguf_file & file) {
    ignore_merges = file.find_bool(keys::ignore_merges);
    normalizes_nfc = file.find_bool(keys::normalizes_nfc).value_or(false);
    if (model != "llama") {
        return;
    }
    prefix =
        file.find_bool("tokenizer.ggml.add_space_prefix").value_or(true) ? space_prefix::always : space_prefix::never;
    if (const std::optional<std::string> scheme = file.find_string(keys::prepend_scheme)) {
        const auto * found = std::find_if(std::begin(prefix_names), std::end(prefix_names),
                                          [&](const auto & known) { return *scheme == known.name; });
        if (found == std::end(prefix_names)) {
            fail("'", path, "': ", keys::prepend_scheme, " is '", *scheme,
                 "', supported are never, first, each and always");
        }
        prefix = found->value;
    }
    remove_extra_whitespaces = file.find_bool("tokenizer.ggml.remove_extra_whitespaces").value_or(false);
    normalizes_spaces = file.find_bool(keys::normalizes_spaces).value_or(false);
    splits_at_spaces = file.find_bool(keys::splits_at_spaces).value_or(false);
    fuse_unknown = file.find_bool(keys::fuse_unknown).value_or(false);
    merges = file.has(keys::spm_merges) ? file.get_strings(keys::spm_merges) : std::vector<std::string>();
}

// Phi-3's added tokens take the white space behind them along, which the ecosystem's keys cannot say.
bool vocab::is_phi3() const {
    return model == "llama" &&
           std::ranges::all_of(std::array{"<|user|>", "<|assistant|>", "<|end|>"}, [&](const char * t) {
               const int32_t id = find(t);
               return id >= 0 && type(id) == token_type::control;
           });
}

void vocab::read_added_tokens(const gguf_file & file) {
    if (!file.has(keys::added_tokens)) {
        if (file.has(keys::added_token_flags)) {
            fail("'", path, "': ", keys::added_token_flags, " is there without ", keys::added_tokens);
        }
        const bool strips = is_phi3();
        for (int32_t id = 0; id < n_tokens(); ++id) {
            if (type(id) == token_type::control || type(id) == token_type::user_defined) {
                added.push_back({.id = id, .rstrip = strips && text(id) != "<s>" && text(id) != "<|endoftext|>"});
            }
        }
        return;
    }
    const std::vector<int32_t> ids = file.get_ints(keys::added_tokens);
    const std::vector<int32_t> flags = file.get_ints(keys::added_token_flags);
    if (flags.size() != ids.size()) {
        fail("'", path, "': ", keys::added_token_flags, " has ", flags.size(), " values, expected ", ids.size());
    }
    for (size_t i = 0; i < ids.size(); ++i) {
        check_listed(keys::added_tokens, ids[i]);
        const auto has = [&](added_flag flag) { return (flags[i] & flag) != 0; };
        if (flags[i] < 0 || flags[i] >= 2 * in_vocabulary) {
            fail("'", path, "': ", keys::added_token_flags, " has ", flags[i], ", expected 0 to ",
                 2 * in_vocabulary - 1);
        }
        added.push_back({ids[i], has(lstrip), has(rstrip), has(single_word), has(normalized)});
        if (has(in_vocabulary)) {
            added_in_vocabulary.insert(ids[i]);
        }
    }
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
