#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kv/kv_finch.h"
#include "rope/rope.h"

namespace livekv {

// What a layer made of a chunk.
struct finch_choice {
    std::vector<int32_t> columns;       // tokens behind the columns: those kept until then, then the chunk's
    std::vector<float> score;           // [n columns]
    std::vector<int32_t> kept_columns;  // ascending
    std::vector<int32_t> kept_tokens;   // behind these
};

// The scalar reference of one layer over a context's chunks (kv_finch.h), in double precision. Keys are kept before
// RoPE, so that moving them to positions without gaps costs no rounding.
class finch_layer {
  public:
    struct shape {
        int64_t n_head = 0;
        int64_t n_head_kv = 0;
        int64_t head_dim = 0;
    };
    // Rows of a chunk and of the question behind it, heads first, queries and keys before RoPE.
    struct rows {
        std::span<const float> q;           // f32 [n_head, n_question, head_dim]
        std::span<const float> k_question;  // f32 [n_head_kv, n_question, head_dim]
        std::span<const float> k;           // f32 [n_head_kv, n_chunk, head_dim]
        std::span<const float> v;           // f32 [n_head_kv, n_chunk, head_dim]
    };

    // n_context: tokens of all chunks; the question is shorter than the target.
    finch_layer(const finch_method & method, const shape & of, const rope_params & rope, int64_t n_context,
                int64_t n_question);

    finch_choice add(const rows & chunk);

    int64_t factor() const { return factor_; }
    int64_t n_kept() const { return static_cast<int64_t>(tokens_.size()); }
    // What is kept, f32 [n_head_kv, n_kept(), head_dim]: keys turned to positions 0, 1, ...
    std::vector<float> keys() const;
    std::vector<float> values() const;

  private:
    // x, f32 [n, head_dim], turned to positions first, first + 1, ...
    std::vector<float> turned(std::span<const float> x, int64_t first) const;
    // Adds a query head's weights on the columns to score. q, k: [n, head_dim], turned.
    void add_weights(std::span<const float> q, std::span<const float> k, std::span<double> score) const;

    finch_method method_;
    shape shape_;
    rope_params rope_;
    int64_t n_question_;
    int64_t factor_;
    std::vector<int32_t> tokens_;        // kept
    std::vector<std::vector<float>> k_;  // [n_head_kv] of f32 [n_kept, head_dim], before RoPE
    std::vector<std::vector<float>> v_;
    int64_t n_read_ = 0;
};

}  // namespace livekv
