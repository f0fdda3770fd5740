#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "run/layer_step.h"

namespace livekv {

// What a pass does in a layer of policy finch beside storing and attending: scores by a question's weights, and the
// choice of what stays. Scratch of the layer being computed, which all layers of a pass share.
class question_step {
  public:
    // For a new pass: no part of it condenses.
    void clear() { parts_.clear(); }
    // A part that condenses, by these steps of its layers, whose query heads are n_head at most; part: which of the
    // pass's. Throws std::bad_alloc.
    void add(size_t part, const layer_step & step, int64_t n_head);
    bool any() const { return !parts_.empty(); }

    // In each layer, in this order. weigh: query head by query head, in any order, at the same time if need be, when
    // the rows are stored; segments: all rows of the layer; q: the pass's queries from the part's question on, f32
    // [n_question, n_head, head_dim]; scale: of q . k. choose: which columns stay. copy: every nth of these rows from
    // the ith on into the step's chunk. weigh and choose throw std::bad_alloc.
    void weigh(size_t part, const layer_step & step, const cpu_kernels & kernels, std::span<const kv_segment> segments,
               const query_rows & q, float scale, int64_t query_head);
    void choose(size_t part, const layer_step & step, int64_t n_head);
    void copy(size_t part, const layer_step & step, int64_t ith, int64_t nth) const;

    size_t bytes() const;

  private:
    struct scratch {
        size_t part;
        std::vector<float> factors;  // [n_question] (finch_method::row_factor)
        std::vector<float> scores;   // [n_head, n_columns]
        std::vector<int32_t> kept;   // columns
    };
    scratch & of(size_t part);
    const scratch & of(size_t part) const;

    std::vector<scratch> parts_;
};

}  // namespace livekv
