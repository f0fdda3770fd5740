#pragma once

#include <ggml.h>

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "run/dense_cache.h"
#include "run/dense_check.h"

namespace livekv {

// Passes over dense caches: ggml's own nodes, a set for each sequence.
class dense_runner {
  public:
    // As pass_runner's, whose last rows are these parts', all dense.
    void begin(std::span<const pass_part> parts);

    // What a graph depends on besides the rows' number.
    std::string graph_key() const;
    void add_inputs(ggml_context * ctx, ggml_cgraph * graph);
    void set_inputs();

    // Its rows are those of the tensors from first_row on. Appends the results, f32 [head_dim * n_head, its rows], one
    // a part; none when q is null.
    void attend(ggml_context * ctx, ggml_cgraph * graph, int64_t il, int64_t first_row, ggml_tensor * q,
                ggml_tensor * k, ggml_tensor * v, float scale, std::vector<ggml_tensor *> & results);

    // Throws livekv::error when the pass failed.
    void check();
    void commit() noexcept;
    size_t n_parts() const { return parts_.size(); }
    int64_t n_rows() const { return parts_.empty() ? 0 : end_of_part(parts_.size() - 1); }
    int64_t end_of_part(size_t i) const { return parts_[i].first_row + parts_[i].n_new; }

  private:
    struct part {
        dense_cache * cache;
        int64_t first_row;  // of these parts'
        int64_t n_new;
        int64_t n_kv;  // rows it reads
    };
    // A part's inputs are the graph's, which may be run again for another pass of the same key.
    struct inputs {
        ggml_tensor * rows;                      // i64 [n_new], where its tokens are stored
        std::map<int64_t, ggml_tensor *> masks;  // by the layers' windows: f16 [n_kv, n_new], 0 or -inf
    };
    void set_mask(const part & p, int64_t window, ggml_tensor * mask);
    std::vector<part> parts_;
    dense_check check_;
    std::vector<inputs> inputs_;            // [n parts] of the graph built last
    std::vector<int64_t> row_values_;       // [n_new]
    std::vector<ggml_fp16_t> mask_values_;  // [n_new, n_kv]
};

}  // namespace livekv
