#pragma once

#include <ggml.h>

#include <cstdint>

#include "model/arch/multiply.h"
#include "model/hparams.h"
#include "model/layer_weights.h"

namespace livekv {

// Names a node as llama.cpp does, so that dumps of both can be compared; il < 0: of no layer.
ggml_tensor * named(ggml_tensor * t, const char * label, int64_t il);

// x f32 [n, n_rows], weight [n]
ggml_tensor * rms_norm(ggml_context * ctx, ggml_tensor * x, ggml_tensor * weight, float eps);

// What an architecture builds the nodes of one layer with. Creates nodes and puts none into a graph.
struct layer_nodes {
    ggml_context * ctx;
    const hparams & hp;
    const layer_weights & w;
    int64_t il;
    ggml_tensor * positions;  // i32 [n_rows]
    packed_rows & packed;     // of the graph

    ggml_tensor * name(ggml_tensor * t, const char * label) const { return named(t, label, il); }
    ggml_tensor * norm(ggml_tensor * x, ggml_tensor * weight) const {
        return rms_norm(ctx, x, weight, hp.norm_rms_eps);
    }

    // x [n_in, n_rows] -> [n_out, n_rows]; bias [n_out] or null.
    ggml_tensor * linear(ggml_tensor * x, ggml_tensor * weight, ggml_tensor * bias) const;

    // x [head_dim * n, n_rows] -> [head_dim, n, n_rows]
    ggml_tensor * heads(ggml_tensor * x, int64_t n) const;

    // x [head_dim, n, n_rows], turned by its rows' positions.
    ggml_tensor * rope(ggml_tensor * x) const;
};

}  // namespace livekv
