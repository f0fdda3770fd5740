#include "model/hparams.h"

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
    hparams hp;
    hp.arch = &architecture_of(file);
    hp.name = file.find_string(keys::name).value_or("");
    arch_keys keys(file, hp.arch->name);
    hp.arch->shape(keys, hp);
    changes.apply(hp.ropes.front());
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
