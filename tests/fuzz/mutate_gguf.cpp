// How GGUF files are changed: as bytes, in place, or as what they say: keys go, come and change their values, tensors
// their types, and the file is written anew around the same data.

#include <ggml-cpp.h>

#include <string>
#include <vector>

#include "error.h"
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
        case 1:
            gguf_set_val_f32(g, key.c_str(), static_cast<float>(static_cast<int32_t>(number)) / 16.0f);
            break;
        case 2:
            gguf_set_val_bool(g, key.c_str(), number % 2);
            break;
        case 3: {
            constexpr const char * words[] = {
                "",      "llama",     "gpt2",  "none",   "linear",
                "yarn",  "llama-bpe", "gpt-2", "smollm", "default",
                "never", "first",     "each",  "always", "{% for m in messages %}{{ m.content }}{% endfor %}"};
            gguf_set_val_str(g, key.c_str(), words[number % std::size(words)]);
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

void change_what_it_says(gguf_context * g, std::minstd_rand & random) {
    constexpr const char * keys[] = {"general.alignment",
                                     "llama.attention.head_count_kv",
                                     "llama.rope.dimension_count",
                                     "llama.rope.scaling.type",
                                     "llama.rope.scaling.factor",
                                     "llama.expert_count",
                                     "llama.attention.key_length",
                                     "tokenizer.chat_template",
                                     "split.count",
                                     "tokenizer.ggml.add_bos_token",
                                     "livekv.tokenizer.added_tokens",
                                     "livekv.tokenizer.added_token_flags",
                                     "livekv.tokenizer.merges",
                                     "livekv.tokenizer.eos_token_ids",
                                     "livekv.tokenizer.prepend_scheme"};
    const int64_t n_keys = gguf_get_n_kv(g);
    const bool known = n_keys > 0 && random() % 4 != 0;
    const std::string key = known ? gguf_get_key(g, static_cast<int64_t>(random()) % n_keys)
                                  : std::string(keys[random() % std::size(keys)]);
    if (key == "general.alignment") {  // another one would move the data
        return;
    }
    if (random() % 4 == 0) {
        gguf_remove_key(g, key.c_str());
    } else {
        set_some_value(g, key, random);
    }
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t * data, size_t size, size_t max_size, unsigned seed) {
    std::minstd_rand random(seed);
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
