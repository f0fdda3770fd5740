#pragma once

#include <cstdint>
#include <span>

#include "kernels/guide_weights.h"
#include "run/layer_step.h"

namespace livekv {

// What a pass does in a layer of policy guided beside storing and attending.

// The layer chooses which of the pass's tokens go on to later ones, if it does that: after their weights are known,
// before sealing. Throws std::bad_alloc.
void choose_going_on(layer_step & step);

// One side of a chunk that closes. The keys' moves the state. Throws std::bad_alloc.
void seal_guided_side(layer_step & step, const cpu_kernels & kernels, kv_side side);

// The same of one whose tokens' bits are known (guided_decision), and nothing else. errors: [n_head_kv], or empty: not
// measured.
void seal_guided_rows(layer_step & step, const cpu_kernels & kernels, kv_side side, std::span<const uint8_t> bits,
                      std::span<kv_error_sums> errors);

// The weights that the tokens of a pass give to their guides.
class guide_weigher {
  public:
    // For a new pass: there are none.
    void clear();
    // Some are wanted, in layers with up to so many rows times heads. Throws std::bad_alloc.
    void reserve(int64_t n_sums);
    bool any() const { return n_sums_ > 0; }

    // In each layer, in this order. add: a sequence whose weights are wanted; args: its attention's, whose tokens are
    // the pass's rows from first_row on; first: position of the sequence's first token in the pass; returns where its
    // log_sums are to go. collect: the guides' keys, when all rows are stored. weigh: every nth row from the ith on,
    // after attention, for when their chunk is sealed; q: f32 [n_rows, n_head, head_dim]. Different threads may weigh
    // at the same time. collect throws std::bad_alloc.
    void begin_layer() { parts_.clear(); }
    float * add(const layer_step & step, const attention_args & args, int64_t first_row, int64_t first);
    void collect();
    void weigh(const cpu_kernels & kernels, const float * q, int64_t ith, int64_t nth) const;

    size_t bytes() const;

  private:
    struct part {
        const layer_step * step;
        guided_queries queries;  // without q
        guide_keys guide;
        int64_t first_row;
        int64_t n_rows;
        int64_t first;
        size_t end_of_sums;
    };
    std::vector<part> parts_;      // of the layer being computed
    std::vector<float> log_sums_;  // [n_rows, n_head] (attention_args)
    size_t n_sums_ = 0;
};

}  // namespace livekv
