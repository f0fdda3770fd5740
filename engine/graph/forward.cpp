#include "graph/forward.h"

namespace livekv {

forward::forward(const hparams & hp, const weights & w, pass_runner & runner, backend & b)
    : hp_(hp), w_(w), runner_(runner), backend_(b) {}

void forward::run(std::span<const int32_t> tokens, std::span<const int32_t> positions, std::span<const int32_t> outputs,
                  bool is_long) {
    const int64_t n_rows = static_cast<int64_t>(tokens.size());
    const int64_t n_outputs = static_cast<int64_t>(outputs.size());
    const bool are_last = n_outputs == 0 || outputs.front() == runner_.n_rows(hp_.n_layer - 1) - n_outputs;
    const std::string key = runner_.graph_key() + " outputs " + std::to_string(n_outputs) + (are_last ? "" : " apart") +
                            (is_long ? " long" : "");
    if (key != key_) {
        key_.clear();  // no graph to reuse, should building this one fail
        ctx_ = make_graph_context(hp_, runner_.n_dense_parts());
        backend_.reserve_nodes(model_graph_nodes(hp_, runner_.n_dense_parts()));
        graph_ = build_model_graph(ctx_.get(), hp_, w_, runner_, n_rows, n_outputs, are_last, is_long);
        backend_.allocate(graph_.graph);
        key_ = key;
    }
    ggml_backend_tensor_set(graph_.tokens, tokens.data(), 0, ggml_nbytes(graph_.tokens));
    ggml_backend_tensor_set(graph_.positions, positions.data(), 0, ggml_nbytes(graph_.positions));
    if (graph_.outputs) {
        ggml_backend_tensor_set(graph_.outputs, outputs.data(), 0, ggml_nbytes(graph_.outputs));
    }
    runner_.set_inputs();
    backend_.compute(graph_.graph);
}

void forward::logits(int64_t first, int64_t n, float * out) const {
    const size_t row = static_cast<size_t>(hp_.n_vocab) * sizeof(float);
    ggml_backend_tensor_get(graph_.logits, out, static_cast<size_t>(first) * row, static_cast<size_t>(n) * row);
}

}  // namespace livekv
