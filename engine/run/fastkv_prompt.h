#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/key_weights.h"
#include "run/kv_cache.h"
#include "run/layer_step.h"

namespace livekv {

// A prompt of policy fastkv on its way through the layers (kv/kv_fastkv.h). The early ones, up to the one that chooses,
// read its tokens as they come; their caches hold all of them, and what the last of these layers gave waits here. When
// the prompt is complete, the layers judge its tokens by the last ones' queries: the later layers read those that go
// on, and every cache becomes what it keeps. Until then nothing is final: a step that fails is taken back.
class fastkv_prompt {
  public:
    // plans: of a cache's layers.
    fastkv_prompt(std::span<const chunk_plan> plans, const kv_shape & shape);

    // Its tokens are what the caches keep of them; what comes from now on goes through all layers and stays.
    bool is_complete() const { return complete_; }
    int64_t n_early() const { return n_early_; }        // layers that read all tokens
    int64_t n_tokens() const { return n_tokens_; }      // whose step is over
    int64_t n_going_on() const { return n_going_on_; }  // of a complete prompt
    size_t peak_bytes() const { return peak_bytes_; }   // when it became complete

    // A pass over some of the layers has begun in their steps, steps [n_layer]. judges: the prompt ends with it. Throws
    // std::bad_alloc.
    void begin(std::span<const layer_step> steps, layer_run layers, bool judges);

    // Of a layer of the pass, when its rows are stored; a job for each kv head, in any order, at the same time if need
    // be. segments: all rows of the layer; queries: of the pass's tokens; scale: of q . k. Throws std::bad_alloc.
    void judge(const layer_step & step, const cpu_kernels & kernels, std::span<const kv_segment> segments,
               const query_rows & queries, float scale, int64_t head);

    // A step that does not complete the prompt is over.
    void commit(std::span<const kv_layer> layers) noexcept;

    // Room for what the last early layer gives for the next n tokens, f32 [n, n_embd]. Throws std::bad_alloc.
    std::span<float> wait(int64_t n, int64_t n_embd);

    // The last early layer, whose step this was, has judged: the tokens that go on, ascending. Throws std::bad_alloc.
    std::span<const int32_t> choose(const layer_step & step);
    std::span<const int32_t> going_on() const { return going_on_; }
    // What waits of n of these from the ith on, f32 [n, n_embd]. Throws std::bad_alloc.
    std::vector<float> waiting(int64_t i, int64_t n) const;

    // All layers have judged: they become what they keep. peak_bytes: of caches and prompt until now.
    void complete(std::span<kv_layer> layers, size_t peak_bytes) noexcept;
    // There is no prompt: the sequence begins with text that stays.
    void complete_without() noexcept { complete_ = true; }

    // The step failed: layers and prompt are what they were before it.
    void take_back(std::span<kv_layer> layers) noexcept;
    // The sequence is empty.
    void reset() noexcept;

    size_t bytes() const;  // beside the layers

  private:
    struct of_layer {
        std::vector<float> queries;       // f32 [n, n_head, head_dim], of the newest tokens, up to the window's number
        std::vector<float> next_queries;  // those when the pass at hand is over
        std::vector<float> scores;        // [n_head_kv, n_tokens - window], of the layer that chooses
        std::vector<kv_chunk> kept;       // what its chunks become
    };
    struct piece {
        int64_t first;            // token
        std::vector<float> rows;  // f32 [n, n_embd]

        int64_t n(int64_t n_embd) const { return static_cast<int64_t>(rows.size()) / n_embd; }
    };
    void release() noexcept;

    std::vector<of_layer> layers_;  // [n_layer]
    std::vector<int64_t> n_heads_;  // [n_layer], of queries
    int64_t n_early_;
    bool judges_ = false;
    bool complete_ = false;
    int64_t n_tokens_ = 0;
    int64_t n_embd_ = 0;
    std::vector<piece> waiting_;  // ascending
    std::vector<int32_t> going_on_;
    int64_t n_going_on_ = 0;
    size_t peak_bytes_ = 0;
};

}  // namespace livekv
