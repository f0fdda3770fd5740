#include "graph/model_graph.h"

#include <string>

#include "model/arch/arch.h"
#include "model/ggml_memory.h"

namespace livekv {

namespace {

class builder {
  public:
    builder(ggml_context * ctx, const hparams & hp, const weights & w, pass_runner & runner, int64_t n_rows,
            bool is_long)
        : ctx_(ctx), hp_(hp), w_(w), runner_(runner), n_rows_(n_rows), is_long_(is_long) {
        out_.graph = ggml_new_graph_custom(ctx, model_graph_nodes(hp, runner.n_dense_parts()), /*grads=*/false);
    }

    model_graph build(int64_t n_outputs, bool outputs_are_last) {
        const layer_run layers = runner_.layers();
        out_.tokens = layers.first == 0 ? input("inp_tokens", n_rows_) : nullptr;
        out_.positions = positions_ = input("inp_pos", n_rows_);
        if (!outputs_are_last) {
            out_.outputs = input("inp_out_ids", n_outputs);
        }
        runner_.add_inputs(ctx_, out_.graph);
        ggml_tensor * x = named(layers.first == 0 ? embedding() : rows_in(), "inp_embd", -1);  // [n_embd, n_rows]
        for (int64_t il = layers.first; il < layers.end; ++il) {
            const bool last = il + 1 == hp_.n_layer;
            x = layer(x, il, last ? n_outputs : runner_.n_rows(il));
        }
        if (layers.end < hp_.n_layer) {
            out_.rows_out = named(x, "rows_out", -1);
            ggml_set_output(x);
            ggml_build_forward_expand(out_.graph, x);
            return out_;
        }
        if (n_outputs > 0) {
            x = named(rms_norm(ctx_, x, w_.output_norm, hp_.norm_rms_eps), "result_norm", -1);
            out_.logits = named(multiply(ctx_, w_.output, x, packed_), "result_output", -1);
            ggml_set_output(out_.logits);
            ggml_build_forward_expand(out_.graph, out_.logits);
        }
        return out_;
    }

  private:
    ggml_tensor * input(const char * label, int64_t n) {
        ggml_tensor * t = ggml_new_tensor_1d(ctx_, GGML_TYPE_I32, n);
        ggml_set_input(t);
        ggml_build_forward_expand(out_.graph, t);
        return named(t, label, -1);
    }

    ggml_tensor * embedding() {
        ggml_tensor * x = ggml_get_rows(ctx_, w_.token_embd, out_.tokens);
        return hp_.embedding_scale == 1.0f ? x : ggml_scale(ctx_, x, hp_.embedding_scale);
    }

    ggml_tensor * rows_in() {
        out_.rows_in = ggml_new_tensor_2d(ctx_, GGML_TYPE_F32, hp_.n_embd, n_rows_);
        ggml_set_input(out_.rows_in);
        ggml_build_forward_expand(out_.graph, out_.rows_in);
        return out_.rows_in;
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

    // Rows of x, i32 or f32 [n, n_rows], that the runner lets go on.
    ggml_tensor * going_on(ggml_tensor * x) { return ggml_get_rows(ctx_, x, runner_.rows_going_on()); }

    // x [n_embd, n_rows] -> [n_embd, n_outputs], or fewer that go on; the other rows are only stored in the caches.
    ggml_tensor * layer(ggml_tensor * x, int64_t il, int64_t n_outputs) {
        const layer_nodes nodes = {ctx_, hp_, w_.layers[static_cast<size_t>(il)], il, positions_, packed_, is_long_};
        const attention_inputs in = hp_.arch->pre(nodes, x);
        if (n_outputs == 0) {
            runner_.attend(ctx_, out_.graph, il, in.q, in.k, in.k_unturned, in.v, in.scale,
                           /*attends=*/false);
            return nullptr;
        }
        ggml_build_forward_expand(out_.graph, in.q);  // before attention, as the caches' rows are
        ggml_tensor * attended =
            runner_.attend(ctx_, out_.graph, il, in.q, in.k, in.k_unturned, in.v, in.scale, /*attends=*/true);
        attended = nodes.name(attended, "kqv_out");
        if (runner_.rows_going_on()) {
            const int64_t n = positions_->ne[0];
            ggml_tensor * positions = going_on(ggml_reshape_2d(ctx_, positions_, 1, n));
            positions_ = ggml_reshape_1d(ctx_, positions, positions->ne[1]);
            return hp_.arch->post(nodes, going_on(attended), going_on(x));
        }
        attended = output_columns(attended, n_outputs);
        return hp_.arch->post(nodes, attended, output_columns(x, n_outputs));
    }

    ggml_context * ctx_;
    const hparams & hp_;
    const weights & w_;
    pass_runner & runner_;
    int64_t n_rows_;
    bool is_long_;
    model_graph out_;
    ggml_tensor * positions_ = nullptr;  // i32 [rows of the layer]
    packed_rows packed_;
};

}  // namespace

model_graph build_model_graph(ggml_context * ctx, const hparams & hp, const weights & w, pass_runner & runner,
                              int64_t n_rows, int64_t n_outputs, bool outputs_are_last, bool is_long) {
    return builder(ctx, hp, w, runner, n_rows, is_long).build(n_outputs, outputs_are_last);
}

size_t model_graph_nodes(const hparams & hp, size_t n_dense_parts) {
    constexpr size_t outside_layers = 64;  // and where rows become fewer between them
    constexpr size_t each_layer = 64;      // of any architecture, views and leaves included, and one dense part
    constexpr size_t each_dense_part = 24;
    const size_t more_parts = n_dense_parts > 1 ? n_dense_parts - 1 : 0;
    return outside_layers + (each_layer + each_dense_part * more_parts) * static_cast<size_t>(hp.n_layer);
}

ggml_context_ptr make_graph_context(const hparams & hp, size_t n_dense_parts) {
    const size_t n_nodes = model_graph_nodes(hp, n_dense_parts);
    const size_t bytes = n_nodes * ggml_tensor_overhead() + ggml_graph_overhead_custom(n_nodes, false);
    return make_ggml_context(bytes);
}

}  // namespace livekv
