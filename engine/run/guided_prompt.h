#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/key_weights.h"
#include "policy/guided_seal.h"
#include "run/layer_step.h"

namespace livekv {

// A prompt of policy guided whose guide is at its end (kv/kv_guided.h): until it is complete, its chunks are held at
// the bits of the first level, and of its newest tokens the queries wait here. The pass that ends it adds up, layer by
// layer, what the guide's tokens give to each token, and seals all chunks at their levels, the last one however short
// it is. Layers take them on commit, so a pass that fails changes nothing.
class guided_prompt {
  public:
    // plans: of a cache's layers.
    guided_prompt(std::span<const chunk_plan> plans, const kv_shape & shape);

    // What comes from now on stays at the bits of the first level.
    bool is_complete() const { return complete_; }
    int64_t n_tokens() const { return n_tokens_; }     // of the prompt, those that are in the layers
    size_t peak_bytes() const { return peak_bytes_; }  // of the cache while it was read; 0: it was not read here

    // A pass over the prompt's next tokens has begun in the layers' steps, steps [n_layer]; ends: it is complete with
    // them. Throws std::bad_alloc.
    void begin(std::span<const layer_step> steps, bool ends);
    bool ends() const { return ends_; }

    // Of each layer of the pass, in this order; the jobs of each in any order, at the same time if need be. weigh, a
    // job for each kv head, when the rows are stored: keeps the queries and, where the prompt ends, adds up their
    // weights. decide: what becomes of each token; throws livekv::error for weights that are no numbers. seal. All
    // throw std::bad_alloc. segments: all of the layer's tokens; queries: of the pass's; scale: of q . k.
    void weigh(const layer_step & step, const cpu_kernels & kernels, std::span<const kv_segment> segments,
               const query_rows & queries, float scale, int64_t head);
    void decide(const layer_step & step);
    int64_t n_seal_jobs(const layer_step & step) const;
    void seal(layer_step & step, const cpu_kernels & kernels, int64_t job);

    // The pass was computed, and its steps are not committed yet: what the cache holds with it.
    void note_peak(size_t bytes_before);
    // Its steps are.
    void commit(std::span<kv_layer> layers) noexcept;

    // There is no prompt of this kind: the layers hold text that stays, behind n_prompt tokens that were decided on.
    void complete_without(int64_t n_prompt) noexcept;
    // The sequence is empty.
    void reset() noexcept;

    size_t bytes() const;  // beside the layers, of passes that are over

  private:
    struct of_layer {
        std::vector<float> queries;  // f32 [n, n_head, head_dim], of the newest tokens, as many as a guide may have
        std::vector<float> next_queries;    // those when the pass at hand is over
        std::vector<kv_chunk> decided;      // what the layer's chunks become, but for the one that closes
        std::vector<kv_error_sums> errors;  // [n_seal_jobs, n_head_kv] where they are measured
    };
    void release_pass() noexcept;

    std::vector<of_layer> layers_;  // [n_layer]
    std::vector<int64_t> n_heads_;  // [n_layer], of queries
    int64_t most_queries_;          // tokens
    bool ends_ = false;
    bool complete_ = false;
    int64_t n_tokens_ = 0;
    int64_t next_tokens_ = 0;  // when the pass at hand is over
    size_t peak_bytes_ = 0;
    // Of a pass that ends the prompt, in the layer being computed.
    std::vector<float> guide_queries_;       // f32 [n_guide, n_head, head_dim]
    std::vector<float> sums_;                // f32 [n_head, next_tokens_]
    std::vector<guided_decision> decision_;  // [chunks]
};

}  // namespace livekv
