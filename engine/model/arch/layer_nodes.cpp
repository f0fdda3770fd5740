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

ggml_tensor * layer_nodes::rope(ggml_tensor * x) const {
    const rope_params & rope = hp.rope(il);
    const int type = rope.order == rope_order::neox ? GGML_ROPE_TYPE_NEOX : GGML_ROPE_TYPE_NORMAL;
    // All scaling is in the divisors and the magnitude: ggml's own is off, and its other numbers mean nothing then.
    return ggml_rope_ext(ctx, x, positions, w.rope_divisors, static_cast<int>(rope.n_rot), type, 0, rope.base, 1.0f,
                         0.0f, rope_magnitude(rope), 0.0f, 0.0f);
}

}  // namespace livekv
