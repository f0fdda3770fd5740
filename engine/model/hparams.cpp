#include "model/hparams.h"

#include <ggml.h>

#include "error.h"
#include "model/arch/arch.h"
#include "model/gguf_keys.h"
#include "model/leftovers.h"

namespace livekv {

namespace {

constexpr uint32_t max_vocab = 1 << 24;  // refuses a corrupted number before anything is allocated from it

const architecture & architecture_of(const gguf_file & file) {
    const std::string name = file.get_string(keys::architecture);
    std::string known;
    for (const architecture * a : architectures()) {
        if (name == a->name) {
            return *a;
        }
        known += (known.empty() ? "'" : ", '") + std::string(a->name) + "'";
    }
    fail("'", file.path(), "': architecture '", name, "' is not supported; supported: ", known);
}

// Other things than models lie in GGUF files: adapters, control vectors, projectors of images. Quantized types have
// changed their layout once, and may again.
void require_model(const gguf_file & file) {
    if (const std::string type = file.find_string(keys::type).value_or("model"); type != "model") {
        fail("'", file.path(), "': ", keys::type, " is '", type, "', not 'model'");
    }
    if (const uint32_t version = file.find_u32(keys::quantization_version).value_or(GGML_QNT_VERSION);
        version > GGML_QNT_VERSION) {
        fail("'", file.path(), "': ", keys::quantization_version, " is ", version, ", known are those up to ",
             GGML_QNT_VERSION);
    }
}

}  // namespace

std::string hparams::architecture_name() const {
    return arch->name;
}

int64_t hparams::kv_values_per_token() const {
    int64_t n = 0;
    for (int64_t il = 0; il < n_layer; ++il) {
        n += 2 * n_embd_kv(il);
    }
    return n;
}

hparams hparams::read(const gguf_file & file, const rope_override & changes) {
    require_model(file);
    hparams hp;
    hp.arch = &architecture_of(file);
    hp.name = file.find_string(keys::name).value_or("");
    arch_keys keys(file, hp.arch->name);
    hp.arch->shape(keys, hp);
    changes.apply(hp.ropes.front());
    if (hp.long_beyond > 0) {
        hp.long_beyond = changes.scaling ? 0 : hp.long_beyond;
        hp.ropes.back().base = hp.ropes.front().base;
    }
    hp.rope_is_overridden = changes.any();
    const ggml_tensor * token_embd = file.find_tensor(keys::token_embd);
    if (!token_embd) {
        fail("'", file.path(), "': tensor '", keys::token_embd, "' is missing (a vocabulary-only file?)");
    }
    if (token_embd->ne[1] > max_vocab) {
        fail("'", file.path(), "': tensor '", keys::token_embd, "' has ", token_embd->ne[1], " rows");
    }
    hp.n_vocab = token_embd->ne[1];
    refuse_unread_keys(keys, hp);
    return hp;
}

}  // namespace livekv
