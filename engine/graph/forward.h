#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "graph/backend.h"
#include "graph/llama_graph.h"

namespace livekv {

// Runs forward passes over one sequence: tokens in, logits out, keys and values into the cache.
// Keeps the last graph and runs it again while its shape stays the same, as it does from one generated token to the
// next. Everything passed in must outlive it. Not thread-safe.
class forward {
  public:
    forward(const hparams & hp, const weights & w, kv_cache & cache, backend & device);

    // Processes tokens at positions cache.n_tokens()... and returns the logits of the last n_outputs of them,
    // f32 [n_outputs, n_vocab], valid until the next call. At most cache.max_new() tokens; end_of_prompt as in
    // kv_cache::begin. Throws livekv::error when they do not fit or a logit is not finite; then the sequence is what it
    // was before.
    std::span<const float> run(std::span<const int32_t> tokens, int64_t n_outputs, bool end_of_prompt);

  private:
    void fill_inputs(std::span<const int32_t> tokens);
    // Of logits_; first: the position of the token whose logits are row 0.
    void require_numbers(int64_t first) const;

    const hparams & hp_;
    const weights & w_;
    kv_cache & cache_;
    backend & device_;

    ggml_context_ptr ctx_;
    llama_graph graph_;
    int64_t n_tokens_ = -1;  // the shape graph_ was built for
    int64_t cache_key_ = -1;
    int64_t n_outputs_ = -1;

    std::vector<int32_t> positions_;  // [n_tokens]
    std::vector<float> logits_;       // [n_outputs, n_vocab]
};

}  // namespace livekv
