#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/attention.h"
#include "kernels/cpu/kernels.h"
#include "policy/chunked.h"
#include "policy/going_on.h"

namespace livekv {

// What a pass does to one layer of a sequence: tokens are stored behind the tail, attended to, and, where the tail is
// full with them, sealed. All of it becomes part of the layer on commit only.
struct layer_step {
    layer_step(kv_layer & l, const chunk_plan & p) : layer(&l), plan(&p) {}

    // Allocates what a pass over n_new tokens needs. close: the tail with them becomes a chunk, sealed if seal says so.
    // n_prompt: tokens of the sequence once the prompt is complete that they are of; 0: they were generated. going:
    // which of them come into the layer, of policy guided with propagate layers; null: all. Throws std::bad_alloc.
    void begin(int64_t n_new, bool close, bool seal, int64_t n_prompt = 0, going_on * going = nullptr);

    // The same of policy finch: of the tokens the last n_question are a question, by which n_kept stay of the others
    // and of what the layer has, its one chunk. Which ones is for the pass to find (run/question_step.h).
    void begin_condensing(int64_t n_new, int64_t n_question, int64_t n_kept);
    bool condenses() const { return n_question > 0; }
    int64_t n_kept_before() const { return layer->n_chunked - layer->n_absent(); }
    int64_t n_columns() const { return n_kept_before() + n_new - n_question; }

    // Whether the tokens are a chunk of their own, whose rows are needed for this pass alone: they go where
    // use_rows says, [n_open_rows()] of them.
    bool passes_through() const { return close && layer->n_tail == 0; }
    void use_rows(uint16_t * k, uint16_t * v);

    // Whether the tokens' weights on the guide are wanted (policy guided).
    bool weighs_guide() const { return plan->guided && n_prompt > 0; }

    // Of one side, [n_head_kv], or empty: not measured.
    std::span<kv_error_sums> errors_of(kv_side side);

    int64_t n_open() const { return layer->n_tail + n_new; }  // tokens of the tail and the pass

    // Of the pass's tokens, those that the layer computes, and which they are; of the tail's and these, the rows.
    int64_t n_rows() const { return going ? static_cast<int64_t>(computed().size()) : n_new; }
    int64_t token_of_row(int64_t i) const { return going ? computed()[static_cast<size_t>(i)] : i; }
    int64_t n_open_rows() const { return n_tail_rows + n_rows(); }
    // Whether a token that is computed is the layer's, too: to be scored, and stored where it is kept.
    bool comes_in(int64_t token) const {
        return !going || std::ranges::binary_search(going->come_in(plan->guided->layer), token);
    }

    // The pass was computed. Allocates nothing.
    void commit() noexcept;

    kv_layer * layer;
    const chunk_plan * plan;
    int64_t n_new = 0;
    int64_t n_prompt = 0;
    int64_t n_question = 0;
    going_on * going = nullptr;
    int64_t n_tail_rows = 0;
    bool close = false;
    uint16_t * k_rows = nullptr;  // f16 [n_open_rows(), n_head_kv, head_dim]
    uint16_t * v_rows = nullptr;
    kv_chunk closed;
    raw_rows sinks;  // of the sequence's first chunk
    struct late_page {
        size_t chunk;  // which was exact on this side
        kv_side side;
        kv_chunk_side sealed;
    };
    std::vector<late_page> late;
    std::vector<kv_error_sums> errors;

  private:
    std::span<const int32_t> computed() const { return going->computed(plan->guided->layer); }
    void drop_rows() noexcept;
};

// Keys or values of a chunk of n tokens, yet to be written: blocks or rows. Throws std::bad_alloc.
kv_chunk_side make_side(const chunk_plan & plan, kv_side side, bool sealed, int64_t n, place & where);
// A kv head's block.
uint8_t * block_of(const kv_chunk_side & side, int64_t head, int64_t n_head_kv);

// The queries of a pass's tokens, f32 [n_new, n_head, head_dim]; q null: nobody reads them.
struct query_rows {
    const float * q = nullptr;
    int64_t n_head = 0;
};

// The work of a step in the host's memory.
class host_step {
  public:
    // Of a layer whose step has begun. Segments last until the next call.
    std::span<const kv_segment> segments(const layer_step & step);

    // Stores row i of the pass: k, v f32 [n_head_kv, head_dim]. Different rows may be stored at the same time.
    // Returns false when a value is not finite in f16.
    static bool store(const layer_step & step, const cpu_kernels & kernels, int64_t i, const float * k,
                      const float * v);

    // The pieces of sealing, to be done once each in any order after attention.
    static int64_t n_seal_jobs(const layer_step & step) {
        return !step.close ? 0 : step.plan->sizes_follow_sealing() ? 2 : 2 * step.plan->n_head_kv;
    }
    static void seal(layer_step & step, const cpu_kernels & kernels, int64_t job, const query_rows & queries);

    // Of a step that closes no chunk: keeps what token i's queries were for the one that does, where that is read.
    static void keep_queries(const layer_step & step, int64_t i, const query_rows & queries);

  private:
    std::vector<kv_segment> segments_;  // the chunks', then the open tokens'
    const kv_layer * of_ = nullptr;     // what they are of, as it was then
    size_t n_chunks_ = 0;
    uint64_t n_edits_ = 0;
};

}  // namespace livekv
