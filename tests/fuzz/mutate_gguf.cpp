// How GGUF files are changed: as bytes, in place, or as what they say: keys go, come and change their values, tensors
// their types, and the file is written anew around the same data. Of two parts one is changed.

#include <ggml-cpp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "error.h"
#include "gguf_parts.h"
#include "model/arch/arch.h"
#include "model/gguf_keys.h"
#include "model/gguf_precheck.h"
#include "mutate.h"

namespace {

// A key's new value, of any type.
void set_some_value(gguf_context * g, const std::string & key, std::minstd_rand & random) {
    const auto number = static_cast<uint32_t>(random() % 3 ? random() % 70 : random());
    const auto n = static_cast<size_t>(random() % 12);
    switch (random() % 8) {
        case 0:
            gguf_set_val_u32(g, key.c_str(), number);
            break;
        case 1: {
            constexpr float hostile[] = {0.0f,     -0.0f, -1.0f, 1e-45f, 1e38f, std::numeric_limits<float>::quiet_NaN(),
                                         INFINITY, 0.5f,  1.0f};
            const float value = static_cast<float>(static_cast<int32_t>(number)) / 16.0f;
            gguf_set_val_f32(g, key.c_str(), random() % 2 ? value : hostile[random() % std::size(hostile)]);
            break;
        }
        case 2:
            gguf_set_val_bool(g, key.c_str(), number % 2);
            break;
        case 3: {
            constexpr const char * words[] = {"",       "llama",     "gpt2",    "none",  "linear", "yarn",  "longrope",
                                              "qwen2",  "qwen3",     "gemma3",  "phi3",  "never",  "first", "each",
                                              "always", "llama-bpe", "default", "gpt-2", "smollm", "tekken"};
            gguf_set_val_str(g, key.c_str(), words[random() % std::size(words)]);
            break;
        }
        case 4: {
            std::vector<int32_t> values(n);
            for (int32_t & value : values) {
                value = static_cast<int32_t>(random() % 40);
            }
            gguf_set_arr_data(g, key.c_str(), GGUF_TYPE_INT32, values.data(), n);
            break;
        }
        case 5: {
            const std::vector<float> values(n, static_cast<float>(number));
            gguf_set_arr_data(g, key.c_str(), GGUF_TYPE_FLOAT32, values.data(), n);
            break;
        }
        case 6: {
            constexpr const char * words[] = {"a", "b", "ab", "a b", "<s>", "<0x41>", "\u2581", "\u2581a", "", "\xC3"};
            std::vector<const char *> values(n);
            for (const char *& value : values) {
                value = words[random() % std::size(words)];
            }
            gguf_set_arr_str(g, key.c_str(), values.data(), n);
            break;
        }
        default:
            gguf_set_val_u64(g, key.c_str(), random() % 2 ? number : UINT64_MAX - number);
    }
}

// A key that models or vocabularies may have, of the file's architecture for the most part.
std::string some_key(const gguf_context * g, std::minstd_rand & random) {
    constexpr const char * shape_keys[] = {livekv::keys::context_length,
                                           livekv::keys::embedding_length,
                                           livekv::keys::block_count,
                                           livekv::keys::feed_forward_length,
                                           livekv::keys::head_count,
                                           livekv::keys::head_count_kv,
                                           livekv::keys::key_length,
                                           livekv::keys::value_length,
                                           livekv::keys::norm_rms_eps,
                                           livekv::keys::rope_dimension_count,
                                           livekv::keys::rope_freq_base,
                                           livekv::keys::attention_scale,
                                           livekv::keys::sliding_window,
                                           livekv::keys::sliding_window_pattern,
                                           livekv::keys::rope_freq_base_swa,
                                           livekv::keys::rope_scaling_type,
                                           livekv::keys::rope_scaling_factor,
                                           livekv::keys::rope_scale_linear,
                                           livekv::keys::rope_scaling_orig_ctx,
                                           livekv::keys::rope_scaling_attn_factor,
                                           livekv::keys::rope_yarn_attn_factor,
                                           livekv::keys::rope_yarn_ext_factor,
                                           livekv::keys::rope_yarn_beta_fast,
                                           livekv::keys::rope_yarn_beta_slow,
                                           livekv::keys::expert_count};
    constexpr const char * other_keys[] = {livekv::keys::architecture,      livekv::keys::split_no,
                                           livekv::keys::split_count,       livekv::keys::split_tensors_count,
                                           livekv::keys::prepend_scheme,    livekv::keys::normalizes_spaces,
                                           livekv::keys::normalizes_nfc,    livekv::keys::splits_at_spaces,
                                           livekv::keys::fuse_unknown,      livekv::keys::spm_merges,
                                           livekv::keys::ignore_merges,     livekv::keys::added_tokens,
                                           livekv::keys::added_token_flags, livekv::keys::eos_token_ids,
                                           "tokenizer.chat_template",       "tokenizer.ggml.pre",
                                           "tokenizer.ggml.merges",         "tokenizer.ggml.scores",
                                           "tokenizer.ggml.add_bos_token",  "tokenizer.ggml.eot_token_id"};
    if (random() % 2) {
        return other_keys[random() % std::size(other_keys)];
    }
    const int64_t id = gguf_find_key(g, livekv::keys::architecture);
    const bool named = id >= 0 && gguf_get_kv_type(g, id) == GGUF_TYPE_STRING && random() % 8 != 0;
    const auto & known = livekv::architectures();
    const std::string architecture = named ? gguf_get_val_str(g, id) : known[random() % known.size()]->name;
    return architecture + "." + shape_keys[random() % std::size(shape_keys)];
}

void change_what_it_says(gguf_context * g, std::minstd_rand & random) {
    const int64_t n_keys = gguf_get_n_kv(g);
    const bool known = n_keys > 0 && random() % 3 != 0;
    const std::string key = known ? gguf_get_key(g, static_cast<int64_t>(random()) % n_keys) : some_key(g, random);
    if (key == GGUF_KEY_GENERAL_ALIGNMENT) {  // another one would move the data
        return;
    }
    if (random() % 4 == 0) {
        gguf_remove_key(g, key.c_str());
    } else {
        set_some_value(g, key, random);
    }
}

// size bytes of a file, in a place of max_size bytes; returns its new size.
size_t mutate_file(uint8_t * data, size_t size, size_t max_size, std::minstd_rand & random) {
    const unsigned how = random() % 4;
    if (how == 0) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    if (how == 1) {
        fuzz::overwrite_numbers(data, size, random);
        return size;
    }
    try {
        livekv::precheck_gguf(data, size);
    } catch (const livekv::error &) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    ggml_context * tensors = nullptr;
    const gguf_context_ptr g(gguf_init_from_buffer(data, size, {/*no_alloc=*/true, &tensors}));
    const ggml_context_ptr owner(tensors);
    if (!g || gguf_get_data_offset(g.get()) > size) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    const std::vector<uint8_t> weights(data + gguf_get_data_offset(g.get()), data + size);
    for (unsigned n = 1 + random() % 3; n > 0; --n) {
        change_what_it_says(g.get(), random);
    }
    std::vector<uint8_t> head(gguf_get_meta_size(g.get()));
    gguf_get_meta_data(g.get(), head.data());
    if (head.size() + weights.size() > max_size) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    std::memcpy(data, head.data(), head.size());
    if (!weights.empty()) {
        std::memcpy(data + head.size(), weights.data(), weights.size());
    }
    return head.size() + weights.size();
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t * data, size_t size, size_t max_size, unsigned seed) {
    std::minstd_rand random(seed);
    const fuzz::gguf_parts parts = fuzz::parts_of(data, size);
    if (!parts.two || max_size <= fuzz::parts_head || random() % 16 == 0) {
        return mutate_file(data, size, max_size, random);
    }
    const size_t room = max_size - fuzz::parts_head;
    const bool first = random() % 2 != 0;
    const std::span<const uint8_t> changed = first ? parts.first : parts.second;
    const std::span<const uint8_t> other = first ? parts.second : parts.first;
    if (other.size() >= room) {
        return mutate_file(data, size, max_size, random);
    }
    const std::vector<uint8_t> kept(other.begin(), other.end());
    std::vector<uint8_t> file(room - kept.size());
    std::copy(changed.begin(), changed.end(), file.begin());
    file.resize(mutate_file(file.data(), changed.size(), file.size(), random));
    const std::vector<uint8_t> & front = first ? file : kept;
    const std::vector<uint8_t> & back = first ? kept : file;
    fuzz::write_parts_head(data, static_cast<uint32_t>(front.size()));
    std::copy(front.begin(), front.end(), data + fuzz::parts_head);
    std::copy(back.begin(), back.end(), data + fuzz::parts_head + front.size());
    return fuzz::parts_head + front.size() + back.size();
}
