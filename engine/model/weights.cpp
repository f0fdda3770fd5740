#include "model/weights.h"

#include <algorithm>

#include "model/arch/arch.h"
#include "model/ggml_log.h"
#include "model/gguf_keys.h"
#include "model/leftovers.h"

namespace livekv {

ggml_backend_dev_t find_gpu() {
    return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_GPU);
}

weights::weights(const gguf_file & file, const hparams & hp, int64_t n_gpu_layers_wanted, weight_form form) {
    set_up_ggml();
    const ggml_backend_dev_t gpu = find_gpu();
    const int64_t offload = gpu ? std::min(n_gpu_layers_wanted, hp.n_layer + 1) : 0;
    n_gpu_layers = std::min(offload, hp.n_layer);
    tensor_loader load(file, gpu, form == weight_form::packed ? &packed_ : nullptr, form == weight_form::f32, contexts_,
                       buffers_);

    token_embd = load.add(keys::token_embd, {hp.n_embd, hp.n_vocab}, tensor_use::lookup, false);
    const bool output_on_gpu = offload > hp.n_layer;
    output_norm = load.add(keys::output_norm, {hp.n_embd}, tensor_use::vector, output_on_gpu);
    const char * output_name = file.find_tensor(keys::output) ? keys::output : keys::token_embd;  // tied when absent
    output = load.add(output_name, {hp.n_embd, hp.n_vocab}, tensor_use::matrix, output_on_gpu);

    for (int64_t il = 0; il < hp.n_layer; ++il) {
        const bool on_gpu = il >= hp.n_layer - n_gpu_layers;
        layers.push_back(hp.arch->tensors(layer_tensors(load, il, on_gpu), hp, il));
        layers.back().on_gpu = on_gpu;
    }
    load.note_used(keys::rope_freqs);  // the layers' ropes hold what these say
    if (hp.long_beyond > 0) {
        load.note_used(keys::rope_factors_short);
        load.note_used(keys::rope_factors_long);
    }
    refuse_unused_tensors(file, load.used());
    refuse_tensors_of_some_layers(file, load.used(), hp.n_layer);
    load.fill();

    for (const ggml_tensor * t : load.used()) {
        n_params += static_cast<uint64_t>(ggml_nelements(t));
        bytes += ggml_nbytes(t);
    }
}

}  // namespace livekv
