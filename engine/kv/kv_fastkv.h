#pragma once

// FastKV (policy fastkv; arXiv 2502.01068): which of a prompt's n tokens a layer keeps, and which of them later layers
// see at all, by the attention that its last 8 tokens, the window, pay to them. For each query head, softmax over all
// keys, causal within the window:
//
//   a_i = sum over the window's queries of the weight they give to token i, before the window
//   p_i = of a over the 7 tokens around i the largest, or a seventh of the sum, also where there are fewer at an end
//   score_i of a kv head = sum of p_i over its query heads; of the layer, for which tokens go on, over all kv heads
//
// The best tokens are kept, and the window; equal scores: the lower position.

#include <cstdint>
#include <span>
#include <vector>

namespace livekv {

constexpr int64_t fastkv_window = 8;  // last tokens of a prompt, which judge the others and are kept
constexpr int64_t fastkv_pool = 7;    // neighbouring tokens that share their weights

struct fastkv_method {
    enum class pooling { max, avg };

    double retain_rate = 0.1;  // share of the prompt's tokens that a layer's cache keeps
    double tsp_rate = 0.2;     // share that goes on to the layers behind the one that chooses
    pooling pool = pooling::max;

    // Of n tokens that come into a layer, those that a kv head keeps: a layer up to the one that chooses, and a later
    // one, of which rate / tsp_rate are as many, or all where that is above 1. Never fewer than the window.
    int64_t n_kept(int64_t n, bool is_later) const;
    int64_t n_going_on(int64_t n) const;
};

// p of one query head. a: [n]; adds to score: [n].
void fastkv_add_pooled(fastkv_method::pooling pool, std::span<const float> a, std::span<float> score);

// The n_kept best of n tokens, the window among them, ascending. score: [n - window]; nothing where n <= window.
std::vector<int32_t> fastkv_best(std::span<const float> score, int64_t n, int64_t n_kept);

// What one layer makes of a prompt, or of the part of it that came in.
struct fastkv_choice {
    std::vector<float> score;                // [n_head_kv, n - window]
    std::vector<float> tsp_score;            // [n - window]
    std::vector<std::vector<int32_t>> kept;  // [n_head_kv] of n_kept
    std::vector<int32_t> going_on;           // [n_going_on]
};

// The scalar reference. q: f32 [n_head, min(n, window), head_dim], of the last tokens; k: f32 [n_head_kv, n, head_dim],
// both after RoPE; scale: of q . k before the softmax.
fastkv_choice fastkv_choose(const fastkv_method & method, std::span<const float> q, std::span<const float> k,
                            int64_t n_head, int64_t n_head_kv, int64_t head_dim, float scale, bool is_later);

}  // namespace livekv
