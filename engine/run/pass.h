#pragma once

#include <ggml.h>

#include <cstdint>
#include <span>
#include <string>

#include "run/chunked_runner.h"
#include "run/dense_runner.h"

namespace livekv {

// Runs passes over several sequences at once: the rows of a pass are its parts' tokens, one part after the other. A
// pass is
//   begin - graph_key - for each layer: attend - set_inputs - compute the graph - check - commit
// and until commit every sequence is what it was before. One object an engine: it owns what passes compute with.
class pass_runner {
  public:
    pass_runner(const kv_shape & shape, int32_t n_threads);
    pass_runner(pass_runner &&) = delete;

    // Of a pass; each has nodes of its own.
    static constexpr size_t most_dense_parts = 16;

    // Of the pass begun.
    size_t n_dense_parts() const { return dense_.n_parts(); }

    // Parts of these caches come before those of others.
    static bool comes_first(const kv_cache & cache);

    // Makes room for the parts' tokens, in that order. Throws livekv::error when they do not fit; then nothing has
    // changed.
    void begin(std::span<const pass_part> parts);

    // A graph built after one begin serves after any other with an equal key.
    const std::string & graph_key() const { return key_; }

    // Of the pass begun: its layers.
    layer_run layers() const { return chunked_.layers(); }

    // Of the pass begun: rows of layer il, of which part i's last one is before end_of_part. There are fewer of a
    // prompt's in later layers where its policy lets tokens go (guided, propagate layers).
    int64_t n_rows(int64_t il) const { return chunked_.n_rows(il) + dense_.n_rows(); }
    int64_t end_of_part(int64_t il, size_t i) const;

    // Adds the inputs the parts need to a graph for them.
    void add_inputs(ggml_context * ctx, ggml_cgraph * graph);

    // Adds the nodes that store k and v, f32 [head_dim, n_head_kv, n_rows], in layer il, keys after RoPE or, of caches
    // that keep them so, before it (k_unturned), and, if it attends, those by which q, f32 [head_dim, n_head, n_rows],
    // attends to its sequence up to its own token, with scores times scale: f32 [head_dim * n_head, n_rows]; else null.
    // Sealing may look at q all the same.
    ggml_tensor * attend(ggml_context * ctx, ggml_cgraph * graph, int64_t il, ggml_tensor * q, ggml_tensor * k,
                         ggml_tensor * k_unturned, ggml_tensor * v, float scale, bool attends);

    // After attend in layer il: which of its rows go on, i32 [n_rows(il + 1)]; null: all.
    ggml_tensor * rows_going_on() const { return chunked_.rows_going_on(); }

    // Fills the inputs for the pass announced to begin.
    void set_inputs();

    // The pass was computed. Throws livekv::error when queries, keys or values were not finite numbers, or memory ran
    // out on the way.
    void check();

    // The pass is sound: its tokens are in the caches now.
    void commit() noexcept;

    // Beside the caches, whatever the context: chunks' raw rows on their way, attention's scratch.
    size_t workspace_bytes() const;

  private:
    std::string key_;
    size_t n_chunked_ = 0;    // parts
    chunked_runner chunked_;  // of the first rows
    dense_runner dense_;      // of the others
};

}  // namespace livekv
