#include "engine/model.h"

#include "error.h"
#include "fork_gate.h"
#include "without_bad_alloc.h"

namespace livekv {

model::model(const std::string & path, int64_t n_gpu_layers, const rope_override & rope, weight_form form_)
    : file(path), hp(hparams::read(file, rope)), vocab(file), tensors(file, hp, n_gpu_layers, form_), form(form_) {
    if (vocab.n_vocab() > hp.n_vocab) {
        fail("'", path, "': the tokenizer has ", vocab.n_vocab(), " tokens, the model ", hp.n_vocab);
    }
    for (size_t i = 0; i < file.n_parts(); ++i) {
        in_use_.emplace_back(file.part_path(i));
    }
}

model_facts model::fingerprint(bool is_long) const {
    const fork_gate::lock lock(contents_mutex_);
    if (contents_.empty()) {
        contents_ = contents_hash(file);
    }
    return model_fingerprint(file, hp, is_long, contents_);
}

model_facts model::facts(bool is_long) const {
    model_facts all = fingerprint(is_long);
    all.emplace_back("products", form == weight_form::packed ? "packed" : form == weight_form::f32 ? "f32" : "stored");
    return all;
}

std::shared_ptr<const model> model::load(const std::string & path, int64_t n_gpu_layers, const rope_override & rope,
                                         weight_form form) {
    return without_bad_alloc("the model", [&] {
        const fork_gate::inside at_work;  // what is set up by the first who comes, too
        return std::make_shared<const model>(path, n_gpu_layers, rope, form);
    });
}

}  // namespace livekv
