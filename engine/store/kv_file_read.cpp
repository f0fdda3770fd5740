#include <algorithm>
#include <cstring>

#include "finite.h"
#include "kv/kv_check.h"
#include "store/kv_file.h"
#include "store/kv_file_names.h"
#include "store/tail_weights.h"
#include "xxh64.h"

namespace livekv {

kv_file::kv_file(const std::string & path, kv_file_kind kind) : file_(path) {
    // The version before the checksum, so that a newer file is called newer, whatever else changed in it.
    const std::optional<std::string> architecture = file_.find_string(kv_names::architecture);
    if (kind == kv_file_kind::sequence && architecture == kv_names::piece_architecture_name) {
        refuse("not a saved cache but a piece of one, from a folder of --kv-store");
    }
    if (architecture !=
        (kind == kv_file_kind::piece ? kv_names::piece_architecture_name : kv_names::architecture_name)) {
        refuse("not a saved cache");
    }
    version_ = file_.get_u32(kv_names::version);
    if (version_ < kv_names::oldest_version || version_ > kv_names::file_version) {
        refuse("written by ", version_ > kv_names::file_version ? "a newer" : "an older", " livekv (file version ",
               version_, ", this one reads ", kv_names::oldest_version, " to ", kv_names::file_version, ")");
    }
    verify_checksum();
    const uint32_t blocks = file_.get_u32(kv_names::block_version);
    if (blocks != kv_block_version) {
        refuse("its blocks have format version ", blocks, ", this livekv reads ", kv_block_version);
    }
    const std::string prefix = kv_names::option_prefix;
    for (const std::string & key : file_.keys_with(prefix)) {
        options_[key.substr(prefix.size())] = file_.get_string(key);
    }
    if (kind == kv_file_kind::piece && file_.has(kv_names::before)) {
        before_ = file_.get_ints(kv_names::before);
    }
    tokens_ = file_.get_ints(kv_names::tokens);
    if (tokens_.empty()) {
        refuse("it holds no tokens");
    }
}

void kv_file::verify_checksum() const {
    const std::span<const uint8_t> all = file_.contents();
    const size_t at = kv_names::checksum_at();
    const std::string name = kv_names::checksum;
    std::vector<uint8_t> head(at - kv_names::first_key);  // length, name, type
    const uint64_t length = name.size();
    const uint32_t type = GGUF_TYPE_UINT64;
    std::memcpy(head.data(), &length, sizeof(length));
    std::copy(name.begin(), name.end(), head.begin() + sizeof(length));
    std::memcpy(head.data() + head.size() - sizeof(type), &type, sizeof(type));
    constexpr uint8_t zeros[sizeof(uint64_t)] = {};
    if (all.size() < at + sizeof(zeros) || !std::equal(head.begin(), head.end(), all.begin() + kv_names::first_key)) {
        refuse("its checksum is not where it belongs: the file was changed");
    }
    uint64_t stored = 0;
    std::memcpy(&stored, all.data() + at, sizeof(stored));
    xxh64 hash;
    hash.update(all.first(at));
    hash.update(zeros);
    hash.update(all.subspan(at + sizeof(zeros)));
    if (hash.digest() != stored) {
        refuse("its checksum is wrong: the file was changed or damaged");
    }
}

void kv_file::require_model(const model_facts & model) const {
    const std::string none = "none";
    const auto compare = [&](const std::string & name, const std::string & here) {
        const std::string saved = file_.find_string(kv_names::model(name)).value_or(none);
        const bool older = name == contents_fact && saved == none;
        if (saved == here || older) {
            return;
        }
        if (name == "weights" || name == contents_fact) {
            refuse("made with another model: the shape is the same, the weights are not");
        }
        if (name == "vocabulary") {
            refuse("made with another model: the weights are the same, the vocabulary is not");
        }
        if (name == "rope_turns") {
            refuse("made with other rotary positions: RoPE was scaled otherwise");
        }
        if (name == "positions") {
            refuse("made with the rotary positions of a ", saved == none ? "short" : "long",
                   " context; this one's length takes the others");
        }
        if (name.starts_with("rope_")) {
            refuse("made with other rotary positions: ", name, " was ", saved, ", here it is ", here);
        }
        refuse("made with another model: its ", name, " was ", saved, ", this one's is ", here);
    };
    // What every model has says more than what stands only where it is not the usual, so it comes first.
    const auto is_of_some = [](const std::string & name) {
        return name == "rope_turns" || name == "windows" || name == "positions";
    };
    for (const bool of_some : {false, true}) {
        for (const auto & [name, value] : model) {
            if (is_of_some(name) == of_some) {
                compare(name, value);
            }
        }
    }
    const std::string prefix = kv_names::model("");
    for (const std::string & key : file_.keys_with(prefix)) {
        const auto same = [&](const auto & fact) { return kv_names::model(fact.first) == key; };
        if (std::ranges::none_of(model, same)) {
            compare(key.substr(prefix.size()), none);
        }
    }
}

const uint8_t * kv_file::data(const std::string & name, ggml_type type, const std::vector<int64_t> & shape) const {
    const ggml_tensor * t = file_.get_tensor(name, shape);
    if (t->type != type) {
        refuse("tensor '", name, "' has type ", ggml_type_name(t->type), ", expected ", ggml_type_name(type));
    }
    return file_.tensor_data(t);
}

std::vector<float> kv_file::logits(int64_t n_vocab) const {
    if (!file_.find_tensor(kv_names::logits)) {
        return {};
    }
    const uint8_t * from = data(kv_names::logits, GGML_TYPE_F32, {n_vocab});
    std::vector<float> values(static_cast<size_t>(n_vocab));
    std::memcpy(values.data(), from, values.size() * sizeof(float));
    if (first_not_finite(values)) {
        refuse("its logits are not numbers");
    }
    return values;
}

std::vector<uint16_t> kv_file::rows(const std::string & name, int64_t row, int64_t n) const {
    const uint8_t * from = data(name, GGML_TYPE_F16, {row, n});
    std::vector<uint16_t> values(static_cast<size_t>(row * n));
    std::memcpy(values.data(), from, values.size() * sizeof(uint16_t));
    if (const std::string problem = problem_of_rows(values.data(), values.size()); !problem.empty()) {
        refuse("tensor '", name, "': ", problem);
    }
    return values;
}

std::vector<float> kv_file::weights(const std::string & name, int64_t n, bool lacks) const {
    const uint8_t * from = data(name, GGML_TYPE_F32, {n});
    std::vector<float> values(static_cast<size_t>(n));
    std::memcpy(values.data(), from, values.size() * sizeof(float));
    const auto may_be = [&](float w) { return tail_weight::is_one(w) && (lacks || tail_weight::is_held(w)); };
    if (!std::ranges::all_of(values, may_be)) {
        refuse("tensor '", name, "': a weight is not in 0..1");
    }
    return values;
}

void kv_file::require_room(int64_t n_ctx, int64_t n_vocab) const {
    const int64_t n_tokens = static_cast<int64_t>(tokens_.size());
    if (n_tokens > n_ctx) {
        refuse("it holds ", n_tokens, " tokens, the context only ", n_ctx, "; use a longer one");
    }
    for (const int32_t token : tokens_) {
        if (token < 0 || token >= n_vocab) {
            refuse("token id ", token, " is not in the model's vocabulary of ", n_vocab);
        }
    }
}

}  // namespace livekv
