#include "model/leftovers.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "error.h"
#include "model/gguf_keys.h"

namespace livekv {

namespace {

// Of an architecture's keys: what says nothing that the result depends on, whatever the value.
constexpr const char * harmless_keys[] = {
    "vocab_size",                            // the rows of token_embd say it
    "tensor_data_layout",                    // older files; "Meta AI original pth" in all of them
    "expert_used_count",                     // says which experts are used, where there are none
    "attention.layer_norm_epsilon",          // of a norm that takes the mean away; ours has a key of its own
    "rope.scaling.original_context_length",  // this and what follows says something where YaRN reads it only
    "rope.scaling.finetuned",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
};

// What vocab.cpp reads of the tokenizer, and what says nothing that a text's tokens depend on: ids of tokens that no
// text gets by itself, and how often BERT's types of tokens occur.
constexpr const char * tokenizer_keys[] = {
    "model",
    "pre",
    "tokens",
    "token_type",
    "scores",
    "merges",
    "bos_token_id",
    "eos_token_id",
    "eot_token_id",
    "eom_token_id",
    "unknown_token_id",
    "add_bos_token",
    "add_eos_token",
    "add_space_prefix",
    "remove_extra_whitespaces",
    "token_type_count",
    "padding_token_id",
    "seperator_token_id",  // so spelled by other tools
    "separator_token_id",
    "cls_token_id",
    "mask_token_id",
    "prefix_token_id",
    "suffix_token_id",
    "middle_token_id",
    "fim_pre_token_id",
    "fim_suf_token_id",
    "fim_mid_token_id",
    "fim_pad_token_id",
    "fim_rep_token_id",
    "fim_sep_token_id",
};

constexpr const char * own_keys[] = {
    keys::prepend_scheme, keys::normalizes_spaces, keys::normalizes_nfc, keys::splits_at_spaces,  keys::fuse_unknown,
    keys::spm_merges,     keys::ignore_merges,     keys::added_tokens,   keys::added_token_flags, keys::eos_token_ids,
};

// Everything else in the architecture's namespace and in these must be off (0, false), or neutral.
constexpr const char * computed_namespaces[] = {"xielu.", "diffusion.", "adapter."};

struct neutral_range {
    double low, high;
};

// key: an architecture's, without its name.
neutral_range neutral_values(const std::string & key, const hparams & hp) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    if (key == "attention.causal" || key == "logit_scale" || key == "residual_scale" || key == "embedding_scale" ||
        key == "attention.output_scale" || key == "rope.scaling.alpha" || key == "rope.scaling.attn_factor" ||
        key == "rope.scaling.yarn_attn_factor") {
        return {1.0, 1.0};
    }
    if (key == "embedding_length_out") {
        return {static_cast<double>(hp.n_embd), static_cast<double>(hp.n_embd)};
    }
    if (key == "attention.scale") {  // stored as float32
        neutral_range range = {0.0, infinity};
        for (int64_t il = 0; il < hp.n_layer; ++il) {
            const double scale = 1.0 / std::sqrt(static_cast<double>(hp.head_dim(il)));
            range = {std::max(range.low, scale * (1.0 - 1e-6)), std::min(range.high, scale * (1.0 + 1e-6))};
        }
        return range;
    }
    if (key == "attention.sliding_window") {  // no text is longer than what it was trained for
        return {static_cast<double>(hp.n_ctx_train), infinity};
    }
    return {0.0, 0.0};
}

bool is_neutral(const std::vector<double> & values, const std::string & key, const hparams & hp) {
    const bool may_be_off = key != "attention.causal";
    const neutral_range neutral = neutral_values(key, hp);
    return std::ranges::all_of(values, [&](double value) {
        return (may_be_off && value == 0.0) || (value >= neutral.low && value <= neutral.high);
    });
}

std::string value_text(const std::optional<std::vector<double>> & values) {
    if (!values || values->size() != 1) {
        return values ? "an array" : "a text";
    }
    std::ostringstream text;
    text << values->front();
    return text.str();
}

// Angles of RoPE that old converters kept: the metadata says them too. blk.<il>.attn_rot_embd, with .weight or without.
bool is_harmless_tensor(const std::string & name) {
    return name.starts_with("blk.") && (name.ends_with(".attn_rot_embd.weight") || name.ends_with(".attn_rot_embd"));
}

}  // namespace

void refuse_unread_keys(const arch_keys & read, const hparams & hp) {
    const gguf_file & file = read.file();
    for (int64_t i = 0; i < file.n_keys(); ++i) {
        const std::string whole_key = file.key(i);
        const bool is_ours = whole_key.starts_with(read.prefix());
        const auto begins = [&](const char * space) { return whole_key.starts_with(space); };
        if (read.asked_for(whole_key) || (!is_ours && std::ranges::none_of(computed_namespaces, begins))) {
            continue;
        }
        const std::string key = is_ours ? whole_key.substr(read.prefix().size()) : whole_key;
        if (is_ours && std::ranges::any_of(harmless_keys, [&](const char * harmless) { return key == harmless; })) {
            continue;
        }
        const std::optional<std::vector<double>> values = file.find_numbers(whole_key);
        if (!values || !is_neutral(*values, key, hp)) {
            fail("'", file.path(), "': key '", whole_key, "' is ", value_text(values),
                 ", which is not supported and may change what the model computes");
        }
    }
}

void refuse_unread_tokenizer_keys(const gguf_file & file) {
    constexpr std::string_view ggml = "tokenizer.ggml.";
    for (int64_t i = 0; i < file.n_keys(); ++i) {
        const std::string key = file.key(i);
        const bool is_ggml = key.starts_with(ggml);
        const bool is_known =
            is_ggml ? std::ranges::find(tokenizer_keys, key.substr(ggml.size())) != std::end(tokenizer_keys)
                    : std::ranges::find(own_keys, key) != std::end(own_keys);
        if (is_known || (!is_ggml && !key.starts_with("livekv."))) {
            continue;
        }
        const std::optional<std::vector<double>> values = file.find_numbers(key);
        if (!values || std::ranges::any_of(*values, [](double value) { return value != 0.0; })) {
            fail("'", file.path(), "': key '", key, "' is ", value_text(values),
                 ", which is not supported and may change what a text's tokens are");
        }
    }
}

void refuse_unused_tensors(const gguf_file & file, const std::set<const ggml_tensor *> & used) {
    constexpr int64_t most_named = 3;
    std::string names;
    int64_t n_unused = 0;
    for (int64_t i = 0; i < file.n_tensors(); ++i) {
        const ggml_tensor * tensor = file.tensor(i);
        if (!used.contains(tensor) && !is_harmless_tensor(tensor->name)) {
            names += n_unused < most_named ? (n_unused ? ", '" : "'") + std::string(tensor->name) + "'" : "";
            ++n_unused;
        }
    }
    if (n_unused > 0) {
        fail("'", file.path(), "': ", n_unused, n_unused == 1 ? " tensor has" : " tensors have",
             " no place in this model and may change what it computes: ", names, n_unused > most_named ? ", ..." : "");
    }
}

void refuse_tensors_of_some_layers(const gguf_file & file, const std::set<const ggml_tensor *> & used,
                                   int64_t n_layer) {
    std::map<std::string, std::string> examples;  // by the part of the name behind blk.<il>.
    for (const ggml_tensor * tensor : used) {
        const std::string name = tensor->name;
        if (name.starts_with("blk.")) {
            examples.emplace(name.substr(name.find('.', 4) + 1), name);
        }
    }
    for (const auto & [part, example] : examples) {
        for (int64_t il = 0; il < n_layer; ++il) {
            if (const std::string name = keys::blk(il, part); !file.find_tensor(name)) {
                fail("'", file.path(), "': tensor '", name, "' is missing, though there is '", example, "'");
            }
        }
    }
}

}  // namespace livekv
