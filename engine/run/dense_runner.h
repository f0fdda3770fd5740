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
    // As pass_runner's, whose rows from first_row on are these parts', all dense.
    void begin(std::span<const pass_part> parts, int64_t first_row);

    // What a graph depends on besides the rows' number.
    std::string graph_key() const;
    void add_inputs(ggml_context * ctx, ggml_cgraph * graph);
    void set_inputs();

    // Appends the results, f32 [head_dim * n_head, its rows], one a part; none when q is null.
    void attend(ggml_context * ctx, ggml_cgraph * graph, int64_t il, ggml_tensor * q, ggml_tensor * k, ggml_tensor * v,
                float scale, std::vector<ggml_tensor *> & results);

    // Throws livekv::error when the pass failed.
    void check();
    void commit() noexcept;
    size_t n_parts() const { return parts_.size(); }

  private:
    struct part {
        dense_cache * cache;
        int64_t first_row;
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
