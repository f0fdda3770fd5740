#include "graph/forward.h"

#include <algorithm>
#include <limits>

#include "error.h"

namespace livekv {

forward::forward(const hparams & hp, const weights & w, kv_cache & cache, backend & device)
    : hp_(hp), w_(w), cache_(cache), device_(device) {}

void forward::fill_inputs(std::span<const int32_t> tokens, int64_t n_kv) {
    const int64_t n_tokens = static_cast<int64_t>(tokens.size());
    const int64_t n_past = cache_.n_tokens();
    positions_.resize(tokens.size());
    rows_.resize(tokens.size());
    // Token i sees every row up to its own; the rows after it and the padding are masked.
    const ggml_fp16_t visible = ggml_fp32_to_fp16(0.0f);
    const ggml_fp16_t hidden = ggml_fp32_to_fp16(-std::numeric_limits<float>::infinity());
    mask_.resize(static_cast<size_t>(n_tokens * n_kv));
    for (int64_t i = 0; i < n_tokens; ++i) {
        positions_[i] = static_cast<int32_t>(n_past + i);
        rows_[i] = n_past + i;
        const auto row = mask_.begin() + i * n_kv;
        std::fill(row, row + n_past + i + 1, visible);
        std::fill(row + n_past + i + 1, row + n_kv, hidden);
    }
    const auto set = [](ggml_tensor * t, const void * data) { ggml_backend_tensor_set(t, data, 0, ggml_nbytes(t)); };
    set(graph_.tokens, tokens.data());
    set(graph_.positions, positions_.data());
    set(graph_.rows, rows_.data());
    set(graph_.mask, mask_.data());
}

std::span<const float> forward::run(std::span<const int32_t> tokens, int64_t n_outputs) {
    const int64_t n_tokens = static_cast<int64_t>(tokens.size());
    LIVEKV_ASSERT(n_tokens > 0 && n_outputs >= 0 && n_outputs <= n_tokens);
    for (const int32_t token : tokens) {
        if (token < 0 || token >= hp_.n_vocab) {
            fail("token id ", token, " is not in the model's vocabulary of ", hp_.n_vocab);
        }
    }
    const int64_t n_kv = cache_.begin(n_tokens);
    if (n_tokens != n_tokens_ || n_kv != n_kv_ || n_outputs != n_outputs_) {
        n_tokens_ = -1;  // no graph to reuse, should building this one fail
        ctx_ = make_graph_context(hp_);
        graph_ = build_llama_graph(ctx_.get(), hp_, w_, cache_, n_tokens, n_kv, n_outputs);
        device_.allocate(graph_.graph);
        n_tokens_ = n_tokens;
        n_kv_ = n_kv;
        n_outputs_ = n_outputs;
    }
    fill_inputs(tokens, n_kv);
    device_.compute(graph_.graph);
    logits_.resize(static_cast<size_t>(n_outputs * hp_.n_vocab));
    if (n_outputs > 0) {
        ggml_backend_tensor_get(graph_.logits, logits_.data(), 0, ggml_nbytes(graph_.logits));
    }
    cache_.commit(n_tokens);
    return logits_;
}

}  // namespace livekv
