#include "model/fingerprint.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <limits>
#include <sstream>

#include "xxh64.h"

namespace livekv {

namespace {

constexpr size_t sample_bytes = 1024;

template <typename T>
std::string exact_text(T value) {
    std::ostringstream out;
    out.precision(std::numeric_limits<T>::max_digits10);
    out << value;
    return out.str();
}

// Text with its end, so that moving a boundary between two texts changes the hash.
void add_text(xxh64 & hash, const std::string & text) {
    hash.update({reinterpret_cast<const uint8_t *>(text.c_str()), text.size() + 1});
}

std::string hex(uint64_t digest) {
    char text[17];
    std::snprintf(text, sizeof(text), "%016" PRIx64, digest);
    return text;
}

std::string weights_hash(const gguf_file & file) {
    xxh64 hash;
    for (int64_t i = 0; i < file.n_tensors(); ++i) {
        const ggml_tensor * t = file.tensor(i);
        std::ostringstream head;
        head << t->name << ' ' << ggml_type_name(t->type);
        for (const int64_t n : t->ne) {
            head << ' ' << n;
        }
        add_text(hash, head.str());
        const size_t size = ggml_nbytes(t);
        const size_t n = std::min(size, sample_bytes);
        hash.update({file.tensor_data(t), n});
        hash.update({file.tensor_data(t) + size - n, n});
    }
    return hex(hash.digest());
}

std::string vocabulary_hash(const gguf_file & file) {
    xxh64 hash;
    add_text(hash, file.get_string("tokenizer.ggml.model"));
    for (const std::string & token : file.get_strings("tokenizer.ggml.tokens")) {
        add_text(hash, token);
    }
    return hex(hash.digest());
}

}  // namespace

model_facts model_fingerprint(const gguf_file & file, const hparams & hp) {
    return {
        // of the first layer, where layers may differ: the weights' hash covers the shapes of all
        {"n_vocab", exact_text(hp.n_vocab)},
        {"n_embd", exact_text(hp.n_embd)},
        {"n_layer", exact_text(hp.n_layer)},
        {"n_ff", exact_text(hp.n_ff(0))},
        {"n_head", exact_text(hp.n_head(0))},
        {"n_head_kv", exact_text(hp.n_head_kv(0))},
        {"head_dim", exact_text(hp.head_dim(0))},
        {"n_rot", exact_text(hp.n_rot)},
        {"norm_rms_eps", exact_text(hp.norm_rms_eps)},
        {"rope_freq_base", exact_text(hp.rope_freq_base)},
        {"rope_freq_scale", exact_text(hp.rope_freq_scale)},
        {"weights", weights_hash(file)},
        {"vocabulary", vocabulary_hash(file)},
    };
}

}  // namespace livekv
