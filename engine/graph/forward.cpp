#include "graph/forward.h"

#include <numeric>

#include "error.h"
#include "finite.h"

namespace livekv {

forward::forward(const hparams & hp, const weights & w, kv_cache & cache, backend & device)
    : hp_(hp), w_(w), cache_(cache), device_(device) {}

void forward::fill_inputs(std::span<const int32_t> tokens) {
    positions_.resize(tokens.size());
    std::iota(positions_.begin(), positions_.end(), static_cast<int32_t>(cache_.n_tokens()));
    ggml_backend_tensor_set(graph_.tokens, tokens.data(), 0, ggml_nbytes(graph_.tokens));
    ggml_backend_tensor_set(graph_.positions, positions_.data(), 0, ggml_nbytes(graph_.positions));
    cache_.set_inputs();
}

void forward::require_numbers(int64_t first) const {
    if (const auto bad = first_not_finite(logits_)) {
        const int64_t at = static_cast<int64_t>(*bad);
        fail("the model's logits are not numbers: that of token ", at % hp_.n_vocab, " after position ",
             first + at / hp_.n_vocab, " is ", logits_[*bad], "; its weights may be damaged");
    }
}

std::span<const float> forward::run(std::span<const int32_t> tokens, int64_t n_outputs, bool end_of_prompt) {
    const int64_t n_tokens = static_cast<int64_t>(tokens.size());
    LIVEKV_ASSERT(n_tokens > 0 && n_outputs >= 0 && n_outputs <= n_tokens);
    for (const int32_t token : tokens) {
        if (token < 0 || token >= hp_.n_vocab) {
            fail("token id ", token, " is not in the model's vocabulary of ", hp_.n_vocab);
        }
    }
    cache_.begin(n_tokens, end_of_prompt);
    if (n_tokens != n_tokens_ || cache_.graph_key() != cache_key_ || n_outputs != n_outputs_) {
        n_tokens_ = -1;  // no graph to reuse, should building this one fail
        ctx_ = make_graph_context(hp_);
        graph_ = build_llama_graph(ctx_.get(), hp_, w_, cache_, n_tokens, n_outputs);
        device_.allocate(graph_.graph);
        n_tokens_ = n_tokens;
        cache_key_ = cache_.graph_key();
        n_outputs_ = n_outputs;
    }
    fill_inputs(tokens);
    device_.compute(graph_.graph);
    cache_.verify();  // what it has to say is nearer to the cause than logits are
    logits_.resize(static_cast<size_t>(n_outputs * hp_.n_vocab));
    if (n_outputs > 0) {
        ggml_backend_tensor_get(graph_.logits, logits_.data(), 0, ggml_nbytes(graph_.logits));
        require_numbers(cache_.n_tokens() + n_tokens - n_outputs);
    }
    cache_.commit();
    return logits_;
}

}  // namespace livekv
