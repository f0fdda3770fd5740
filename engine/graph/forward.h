#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "graph/backend.h"
#include "graph/model_graph.h"

namespace livekv {

// Runs forward passes: rows of tokens in, logits out, keys and values into the caches behind the pass. Knows rows and a
// pass, no sequence. Keeps the last graph and runs it again while its shape stays the same, as it does from one
// generated token to the next. Everything passed in must outlive it. Not thread-safe.
class forward {
  public:
    // What a pass is over.
    struct rows {
        std::span<const int32_t> tokens;     // [n_rows]
        std::span<const float> given;        // f32 [n_rows, n_embd], in place of tokens, by the layer before its first
        std::span<const int32_t> positions;  // [n_rows]
        std::span<const int32_t> outputs;    // ascending rows of the last layer whose logits are wanted
        bool is_long = false;                // hparams::is_long of all its sequences
    };

    forward(const hparams & hp, const weights & w, pass_runner & runner, backend & b);
    forward(forward &&) = delete;

    // Computes the pass that the runner has begun. Between this and the runner's commit, logits() gives them, and
    // rows_out() what a pass gives that ends before the last layer.
    void run(const rows & of);

    // Copies logits of outputs first ... first + n - 1, f32 [n, n_vocab], to out.
    void logits(int64_t first, int64_t n, float * out) const;

    // Copies what the pass's last layer gave to out, f32 [n_rows, n_embd].
    void rows_out(std::span<float> out) const;

  private:
    const hparams & hp_;
    const weights & w_;
    pass_runner & runner_;
    backend & backend_;

    ggml_context_ptr ctx_;
    model_graph graph_;
    std::string key_;  // of what graph_ was built for; empty: there is none
};

}  // namespace livekv
