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

// Its name, type and shape.
void add_description(xxh64 & hash, const ggml_tensor * t) {
    std::ostringstream head;
    head << t->name << ' ' << ggml_type_name(t->type);
    for (const int64_t n : t->ne) {
        head << ' ' << n;
    }
    add_text(hash, head.str());
}

std::string weights_hash(const gguf_file & file) {
    xxh64 hash;
    for (int64_t i = 0; i < file.n_tensors(); ++i) {
        const ggml_tensor * t = file.tensor(i);
        add_description(hash, t);
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

// What the layers' RoPE makes of positions, however it came about.
std::string turns_hash(const hparams & hp) {
    xxh64 hash;
    for (const rope_params & rope : hp.ropes) {
        add_text(hash, exact_text(rope.base) + " " + exact_text(rope_magnitude(rope)));
        for (const float divisor : rope_divisors(rope)) {
            add_text(hash, exact_text(divisor));
        }
    }
    return hex(hash.digest());
}

}  // namespace

std::string contents_hash(const gguf_file & file) {
    xxh64 hash;
    for (const std::string & key : file.keys_with(file.get_string("general.architecture") + ".")) {
        add_text(hash, key);
        for (const double number : file.find_numbers(key).value_or(std::vector<double>())) {
            add_text(hash, exact_text(number));
        }
        if (!file.is_array(key) && !file.find_numbers(key)) {
            add_text(hash, file.get_string(key));
        }
    }
    for (int64_t i = 0; i < file.n_tensors(); ++i) {
        const ggml_tensor * t = file.tensor(i);
        add_description(hash, t);
        hash.update({file.tensor_data(t), ggml_nbytes(t)});
        file.release(t);
    }
    return hex(hash.digest());
}

model_facts model_fingerprint(const gguf_file & file, const hparams & hp, bool is_long, const std::string & contents) {
    const rope_params & rope = hp.ropes.front();
    const bool linear = rope.scaling == rope_scaling::linear;
    model_facts facts = {
        // of the first layer, where layers may differ: the weights' hash covers the shapes of all
        {"n_vocab", exact_text(hp.n_vocab)},
        {"n_embd", exact_text(hp.n_embd)},
        {"n_layer", exact_text(hp.n_layer)},
        {"n_ff", exact_text(hp.n_ff(0))},
        {"n_head", exact_text(hp.n_head(0))},
        {"n_head_kv", exact_text(hp.n_head_kv(0))},
        {"head_dim", exact_text(hp.head_dim(0))},
        {"n_rot", exact_text(rope.n_rot)},
        {"norm_rms_eps", exact_text(hp.norm_rms_eps)},
        {"rope_freq_base", exact_text(rope.base)},
        {"rope_freq_scale", exact_text(linear ? 1.0f / rope.factor : 1.0f)},
        {"weights", weights_hash(file)},
        {contents_fact, contents},
        {"vocabulary", vocabulary_hash(file)},
    };
    // The numbers above and the weights' hash say the rest of what a file's RoPE is.
    if (rope.scaling == rope_scaling::yarn || hp.rope_is_overridden || hp.ropes.size() > 1) {
        facts.insert(facts.begin(), {"rope_turns", turns_hash(hp)});
    }
    if (std::any_of(hp.layers.begin(), hp.layers.end(), [](const layer_shape & l) { return l.window > 0; })) {
        std::string windows;
        for (const layer_shape & layer : hp.layers) {
            windows += windows.empty() ? "" : ",";
            windows += std::to_string(layer.window);
        }
        facts.insert(facts.begin(), {"windows", windows});
    }
    if (is_long) {
        facts.insert(facts.begin(), {"positions", "of a long context"});
    }
    return facts;
}

}  // namespace livekv
