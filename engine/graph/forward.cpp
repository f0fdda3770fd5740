#include "graph/forward.h"

namespace livekv {

forward::forward(const hparams & hp, const weights & w, pass_runner & runner, backend & b)
    : hp_(hp), w_(w), runner_(runner), backend_(b) {}

void forward::run(const rows & of) {
    const int64_t n_rows = static_cast<int64_t>(of.positions.size());
    const int64_t n_outputs = static_cast<int64_t>(of.outputs.size());
    const bool are_last = n_outputs == 0 || of.outputs.front() == runner_.n_rows(hp_.n_layer - 1) - n_outputs;
    const std::string key = runner_.graph_key() + " outputs " + std::to_string(n_outputs) + (are_last ? "" : " apart") +
                            (of.is_long ? " long" : "");
    if (key != key_) {
        key_.clear();  // no graph to reuse, should building this one fail
        ctx_ = make_graph_context(hp_, runner_.n_dense_parts());
        backend_.reserve_nodes(model_graph_nodes(hp_, runner_.n_dense_parts()));
        graph_ = build_model_graph(ctx_.get(), hp_, w_, runner_, n_rows, n_outputs, are_last, of.is_long);
        backend_.allocate(graph_.graph);
        key_ = key;
    }
    if (graph_.rows_in) {
        ggml_backend_tensor_set(graph_.rows_in, of.given.data(), 0, ggml_nbytes(graph_.rows_in));
    } else {
        ggml_backend_tensor_set(graph_.tokens, of.tokens.data(), 0, ggml_nbytes(graph_.tokens));
    }
    ggml_backend_tensor_set(graph_.positions, of.positions.data(), 0, ggml_nbytes(graph_.positions));
    if (graph_.outputs) {
        ggml_backend_tensor_set(graph_.outputs, of.outputs.data(), 0, ggml_nbytes(graph_.outputs));
    }
    runner_.set_inputs();
    backend_.compute(graph_.graph);
}

void forward::logits(int64_t first, int64_t n, float * out) const {
    const size_t row = static_cast<size_t>(hp_.n_vocab) * sizeof(float);
    ggml_backend_tensor_get(graph_.logits, out, static_cast<size_t>(first) * row, static_cast<size_t>(n) * row);
}

void forward::rows_out(std::span<float> out) const {
    ggml_backend_tensor_get(graph_.rows_out, out.data(), 0, out.size_bytes());
}

}  // namespace livekv
