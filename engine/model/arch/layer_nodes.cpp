#include "model/arch/layer_nodes.h"

#include <string>

namespace livekv {

ggml_tensor * named(ggml_tensor * t, const char * label, int64_t il) {
    return ggml_set_name(t, il < 0 ? label : (std::string(label) + "-" + std::to_string(il)).c_str());
}

ggml_tensor * rms_norm(ggml_context * ctx, ggml_tensor * x, ggml_tensor * weight, float eps) {
    return ggml_mul(ctx, ggml_rms_norm(ctx, x, eps), weight);
}

ggml_tensor * layer_nodes::linear(ggml_tensor * x, ggml_tensor * weight, ggml_tensor * bias) const {
    ggml_tensor * y = multiply(ctx, weight, x, packed);
    return bias ? ggml_add(ctx, y, bias) : y;
}

ggml_tensor * layer_nodes::heads(ggml_tensor * x, int64_t n) const {
    return ggml_reshape_3d(ctx, x, hp.head_dim(il), n, x->ne[1]);
}

ggml_tensor * layer_nodes::rope(ggml_tensor * x, int type) const {
    // The last four numbers belong to YaRN, which no supported model uses: off, neutral, and two unused bounds.
    return ggml_rope_ext(ctx, x, positions, w.rope_freqs, static_cast<int>(hp.n_rot), type,
                         static_cast<int>(hp.n_ctx_train), hp.rope_freq_base, hp.rope_freq_scale, 0.0f, 1.0f, 32.0f,
                         1.0f);
}

}  // namespace livekv
