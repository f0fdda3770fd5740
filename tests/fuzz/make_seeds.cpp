// Writes the seeds that are too large to be kept: OUT/gguf, small models of every kind of weights and vocabulary, and
// OUT/kv_file, sequences saved with every kind of options, and the recorded ones of version 2.

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "../fixtures/small_vocab.h"
#include "gguf_parts.h"
#include "kv_model.h"
#include "model/arch/arch.h"
#include "policy/kv_spec.h"

namespace {

namespace fs = std::filesystem;

// As few bytes as a model can have, so that most changes hit something that is read.
tiny_spec smallest() {
    tiny_spec spec;
    spec.n_layer = 1;
    spec.n_embd = 32;
    spec.n_head = 1;
    spec.n_head_kv = 1;
    spec.n_ff = 32;
    spec.n_ctx = 64;
    spec.tied = true;
    spec.n_vocab = 8;
    spec.matrix_type = GGML_TYPE_Q8_0;
    spec.edit_keys = [](gguf_context * g) {
        const char * texts[] = {"<unk>", "<s>", "</s>", "<0x41>", "\u2581", "a", "\u2581a", "<mark>"};
        const int32_t types[] = {2, 3, 3, 6, 1, 1, 1, 4};
        const float scores[] = {0, 0, 0, 0, -1, -2, -3, 0};
        gguf_set_arr_str(g, "tokenizer.ggml.tokens", texts, 8);
        gguf_set_arr_data(g, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, types, 8);
        gguf_set_arr_data(g, "tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, scores, 8);
    };
    return spec;
}

// One of each architecture, with what its files have beyond llama's.
std::vector<tiny_spec> of_each_architecture() {
    std::vector<tiny_spec> specs;
    for (const livekv::architecture * a : livekv::architectures()) {
        tiny_spec spec = smallest();
        spec.arch = a->name;
        spec.matrix_type = GGML_TYPE_F32;
        spec.n_embd = spec.head_dim = spec.n_ff = 8;
        spec.long_rope = spec.arch == "phi3";
        spec.n_layer = spec.arch == "gemma3" ? 2 : 1;  // a window, and none
        spec.window = 2;
        if (spec.arch == "qwen2") {
            spec.extra_tensors = {"blk.0.attn_q.bias", "blk.0.attn_k.bias", "blk.0.attn_v.bias"};
        }
        specs.push_back(spec);
    }
    tiny_spec yarn = specs.front();
    yarn.edit_keys = [vocabulary = yarn.edit_keys](gguf_context * g) {
        vocabulary(g);
        gguf_set_val_str(g, "llama.rope.scaling.type", "yarn");
        gguf_set_val_f32(g, "llama.rope.scaling.factor", 4.0f);
        gguf_set_val_u32(g, "llama.rope.scaling.original_context_length", 16);
        gguf_set_val_f32(g, "llama.rope.scaling.attn_factor", 1.1f);
        gguf_set_val_f32(g, "llama.rope.scaling.yarn_beta_fast", 32.0f);
        gguf_set_val_f32(g, "llama.rope.scaling.yarn_beta_slow", 1.0f);
    };
    specs.push_back(yarn);
    return specs;
}

// A model in two parts, as the gguf target reads them: metadata and the first tensors, then the others.
void write_parts(const tiny_spec & spec, const std::string & path) {
    const temporary_file whole(".gguf");
    write_tiny_model(spec, whole.path());
    ggml_context * data = nullptr;
    const gguf_context_ptr model(gguf_init_from_file(whole.path().c_str(), {/*no_alloc=*/false, &data}));
    const ggml_context_ptr owner(data);
    const auto n_tensors = static_cast<int32_t>(gguf_get_n_tensors(model.get()));
    std::vector<std::vector<uint8_t>> parts;
    for (uint16_t no = 0; no < 2; ++no) {
        const gguf_context_ptr part(gguf_init_empty());
        if (no == 0) {
            gguf_set_kv(part.get(), model.get());
        }
        gguf_set_val_u16(part.get(), "split.no", no);
        gguf_set_val_u16(part.get(), "split.count", 2);
        gguf_set_val_i32(part.get(), "split.tensors.count", n_tensors);
        for (int32_t i = no == 0 ? 0 : n_tensors / 2; i < (no == 0 ? n_tensors / 2 : n_tensors); ++i) {
            gguf_add_tensor(part.get(), ggml_get_tensor(data, gguf_get_tensor_name(model.get(), i)));
        }
        const temporary_file file(".gguf");
        gguf_write_to_file(part.get(), file.path().c_str(), /*only_meta=*/false);
        std::ifstream in(file.path(), std::ios::binary);
        parts.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
    }
    std::vector<uint8_t> both(fuzz::parts_head);
    fuzz::write_parts_head(both.data(), static_cast<uint32_t>(parts[0].size()));
    for (const std::vector<uint8_t> & part : parts) {
        both.insert(both.end(), part.begin(), part.end());
    }
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char *>(both.data()), static_cast<std::streamsize>(both.size()));
}

void write_models(const fs::path & out) {
    const auto write = [&](const std::string & name, const tiny_spec & spec) {
        write_tiny_model(spec, (out / (name + ".gguf")).string());
    };
    for (const ggml_type type : {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0,
                                 GGML_TYPE_Q4_1, GGML_TYPE_Q5_0, GGML_TYPE_Q5_1, GGML_TYPE_IQ4_NL}) {
        tiny_spec spec = smallest();
        spec.matrix_type = type;
        write(ggml_type_name(type), spec);
    }
    tiny_spec spec = smallest();
    spec.tied = false;
    spec.n_layer = 2;
    spec.n_head = 2;
    spec.head_dim = 32;
    write("two_layers", spec);
    spec = smallest();
    const auto small_vocabulary = spec.edit_keys;
    spec.edit_keys = [&](gguf_context * g) {
        small_vocabulary(g);
        gguf_set_val_u32(g, "llama.rope.dimension_count", 16);
        gguf_set_val_str(g, "llama.rope.scaling.type", "linear");
        gguf_set_val_f32(g, "llama.rope.scaling.factor", 2.0f);
        gguf_set_val_str(g, "tokenizer.chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}");
    };
    write("more_keys", spec);
    spec = smallest();
    spec.extra_tensors = {"blk.0.attn_output.bias", "blk.0.ffn_down.bias"};
    write("biases", spec);

    int n = 0;
    for (const tiny_spec & one : of_each_architecture()) {
        write(one.arch + "-" + std::to_string(n++), one);
    }
    write_parts(of_each_architecture().front(), (out / "two_parts").string());

    for (const char * pre : {"llama-bpe", "gpt-2", "smollm", "default"}) {
        fixtures::vocab_builder vocab("gpt2", fixtures::bpe_tokens());
        vocab.set_merges(fixtures::bpe_merges());
        gguf_set_val_str(vocab.gguf, "tokenizer.ggml.pre", pre);
        gguf_write_to_file(vocab.gguf, (out / (std::string(pre) + ".gguf")).c_str(), /*only_meta=*/true);
    }
}

void write_sequences(const fs::path & out) {
    int n = 0;
    for (const char * spec :
         {"livekv:chunk-size=32", "quality:chunk-size=32", "small:chunk-size=32", "reference:chunk-size=32",
          "livekv:chunk-size=32:kv-bits=8,2:outlier-ratio=0.05:v-outlier-ratio=0.05:warmup-chunks=0",
          "livekv:chunk-size=32:kv-bits=5,3:key-group=32:rotate=kv:sink-tokens=0",
          "livekv:chunk-size=32:warmup-keep=on:seal-decode=off:bypass-layers=1:bypass-type=q8_0",
          "livekv:chunk-size=64:key-group=chunk:scale-method=range:zero-point=off",
          "livekv:chunk-size=32:key-alloc=block:outlier-ratio=0:kv-bits=3:key-quarters=1",
          "livekv:chunk-size=32:key-alloc=block:outlier-ratio=0:kv-bits=3:key-feedback=off"}) {
        livekv::session_params params = fuzz::kv_params();
        params.kv = livekv::parse_kv_spec(spec);
        livekv::session s(fuzz::kv_engine(), params);
        s.prefill(tiny_sequences::some_tokens(45));
        for (const int32_t token : tiny_sequences::some_tokens(22, 4)) {
            s.append(token);
        }
        s.save((out / (std::to_string(n++) + ".kv")).string());
        s.trim(40);
        s.save((out / (std::to_string(n++) + ".kv")).string());
    }
    for (const char * name : {"cache-v2.kv", "cache-v2-trimmed.kv"}) {
        fs::copy_file(fs::path(LIVEKV_ROOT) / "tests" / "fixtures" / name, out / name,
                      fs::copy_options::overwrite_existing);
    }
}

}  // namespace

int main(int argc, char ** argv) {
    if (argc != 2) {
        std::fprintf(stderr, "make_seeds FOLDER\n");
        return 2;
    }
    const fs::path out = argv[1];
    fs::create_directories(out / "gguf");
    fs::create_directories(out / "kv_file");
    write_models(out / "gguf");
    write_sequences(out / "kv_file");
    return 0;
}
