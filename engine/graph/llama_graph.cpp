#include "graph/llama_graph.h"

#include <cmath>
#include <string>

#include "graph/require_memory.h"

namespace livekv {

namespace {

class builder {
  public:
    builder(ggml_context * ctx, const hparams & hp, const weights & w, pass_runner & runner, int64_t n_rows)
        : ctx_(ctx), hp_(hp), w_(w), runner_(runner), n_rows_(n_rows) {
        out_.graph = ggml_new_graph_custom(ctx, llama_graph_nodes(hp, runner.n_dense_parts()), /*grads=*/false);
    }

    llama_graph build(int64_t n_outputs, bool outputs_are_last) {
        out_.tokens = input("inp_tokens", n_rows_);
        out_.positions = input("inp_pos", n_rows_);
        if (!outputs_are_last) {
            out_.outputs = input("inp_out_ids", n_outputs);
        }
        runner_.add_inputs(ctx_, out_.graph);
        ggml_tensor * x = name(ggml_get_rows(ctx_, w_.token_embd, out_.tokens), "inp_embd", -1);  // [n_embd, n_rows]
        for (int64_t il = 0; il < hp_.n_layer; ++il) {
            const bool last = il + 1 == hp_.n_layer;
            x = layer(x, il, last ? n_outputs : n_rows_);
        }
        if (n_outputs > 0) {
            x = name(norm(x, w_.output_norm), "result_norm", -1);
            out_.logits = name(ggml_mul_mat(ctx_, w_.output, x), "result_output", -1);
            ggml_set_output(out_.logits);
            ggml_build_forward_expand(out_.graph, out_.logits);
        }
        return out_;
    }

  private:
    ggml_tensor * input(const std::string & label, int64_t n) {
        ggml_tensor * t = ggml_new_tensor_1d(ctx_, GGML_TYPE_I32, n);
        ggml_set_input(t);
        ggml_build_forward_expand(out_.graph, t);
        return name(t, label, -1);
    }

    ggml_tensor * name(ggml_tensor * t, const std::string & label, int64_t il) {
        ggml_set_name(t, il < 0 ? label.c_str() : (label + "-" + std::to_string(il)).c_str());
        return t;
    }

    ggml_tensor * norm(ggml_tensor * x, ggml_tensor * weight) {
        return ggml_mul(ctx_, ggml_rms_norm(ctx_, x, hp_.norm_rms_eps), weight);
    }

    ggml_tensor * linear(ggml_tensor * x, ggml_tensor * weight, ggml_tensor * bias) {
        ggml_tensor * y = ggml_mul_mat(ctx_, weight, x);
        return bias ? ggml_add(ctx_, y, bias) : y;
    }

    ggml_tensor * rope(ggml_tensor * x, const layer_weights & l) {
        // The last four numbers belong to YaRN, which no supported model uses: off, neutral, and two unused bounds.
        return ggml_rope_ext(ctx_, x, out_.positions, l.rope_freqs, static_cast<int>(hp_.n_rot), GGML_ROPE_TYPE_NORMAL,
                             static_cast<int>(hp_.n_ctx_train), hp_.rope_freq_base, hp_.rope_freq_scale, 0.0f, 1.0f,
                             32.0f, 1.0f);
    }

    // Keeps the columns of x [n, n_rows] whose logits are wanted.
    ggml_tensor * output_columns(ggml_tensor * x, int64_t n_outputs) {
        if (n_outputs == x->ne[1]) {
            return x;
        }
        if (out_.outputs) {
            return ggml_get_rows(ctx_, x, out_.outputs);
        }
        return ggml_view_2d(ctx_, x, x->ne[0], n_outputs, x->nb[1], (x->ne[1] - n_outputs) * x->nb[1]);
    }

    // x [n_embd, n_rows] -> [n_embd, n_outputs]; the other rows are only stored in the caches.
    ggml_tensor * layer(ggml_tensor * x, int64_t il, int64_t n_outputs) {
        const layer_weights & l = w_.layers[static_cast<size_t>(il)];

        ggml_tensor * cur = name(norm(x, l.attn_norm), "attn_norm", il);
        ggml_tensor * q = name(linear(cur, l.wq, l.bq), "Qcur", il);
        ggml_tensor * k = name(linear(cur, l.wk, l.bk), "Kcur", il);
        ggml_tensor * v = name(linear(cur, l.wv, l.bv), "Vcur", il);
        k = ggml_reshape_3d(ctx_, k, hp_.head_dim, hp_.n_head_kv, n_rows_);
        v = ggml_reshape_3d(ctx_, v, hp_.head_dim, hp_.n_head_kv, n_rows_);
        k = name(rope(k, l), "Kcur_rope", il);
        if (n_outputs == 0) {
            runner_.attend(ctx_, out_.graph, il, nullptr, k, v, 0.0f);
            return nullptr;
        }
        q = ggml_reshape_3d(ctx_, q, hp_.head_dim, hp_.n_head, n_rows_);
        q = name(rope(q, l), "Qcur_rope", il);
        ggml_build_forward_expand(out_.graph, q);  // before attention, as the caches' rows are
        const float scale = 1.0f / std::sqrt(static_cast<float>(hp_.head_dim));
        cur = name(runner_.attend(ctx_, out_.graph, il, q, k, v, scale), "kqv_out", il);

        cur = output_columns(cur, n_outputs);
        cur = name(linear(cur, l.wo, l.bo), "attn_out", il);
        cur = name(ggml_add(ctx_, cur, output_columns(x, n_outputs)), "ffn_inp", il);

        ggml_tensor * ffn = name(norm(cur, l.ffn_norm), "ffn_norm", il);
        ggml_tensor * gate = name(linear(ffn, l.ffn_gate, l.b_gate), "ffn_gate", il);
        ggml_tensor * up = name(linear(ffn, l.ffn_up, l.b_up), "ffn_up", il);
        ffn = name(ggml_swiglu_split(ctx_, gate, up), "ffn_swiglu", il);
        ffn = name(linear(ffn, l.ffn_down, l.b_down), "ffn_out", il);
        return name(ggml_add(ctx_, ffn, cur), "l_out", il);
    }

    ggml_context * ctx_;
    const hparams & hp_;
    const weights & w_;
    pass_runner & runner_;
    int64_t n_rows_;
    llama_graph out_;
};

}  // namespace

llama_graph build_llama_graph(ggml_context * ctx, const hparams & hp, const weights & w, pass_runner & runner,
                              int64_t n_rows, int64_t n_outputs, bool outputs_are_last) {
    return builder(ctx, hp, w, runner, n_rows).build(n_outputs, outputs_are_last);
}

size_t llama_graph_nodes(const hparams & hp, size_t n_dense_parts) {
    constexpr size_t outside_layers = 32;
    constexpr size_t each_layer = 64;  // views and leaves included, and one dense part
    constexpr size_t each_dense_part = 24;
    const size_t more_parts = n_dense_parts > 1 ? n_dense_parts - 1 : 0;
    return outside_layers + (each_layer + each_dense_part * more_parts) * static_cast<size_t>(hp.n_layer);
}

ggml_context_ptr make_graph_context(const hparams & hp, size_t n_dense_parts) {
    const size_t n_nodes = llama_graph_nodes(hp, n_dense_parts);
    const size_t bytes = n_nodes * ggml_tensor_overhead() + ggml_graph_overhead_custom(n_nodes, false);
    require_memory(2 * bytes);  // the graph's allocation takes as much again at most
    return ggml_context_ptr(ggml_init({bytes, nullptr, /*no_alloc=*/true}));
}

}  // namespace livekv
