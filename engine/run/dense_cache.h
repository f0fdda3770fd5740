#pragma once

#include <ggml-cpp.h>

#include <vector>

#include "run/kv_cache.h"

namespace livekv {

// Where ggml keeps each layer's rows.
using kv_buffer_types = std::vector<ggml_backend_buffer_type_t>;

// Every token's keys and values as rows of one ggml type (f16, q8_0, q4_0), quantized as they are written, in buffers
// of n_ctx rows a layer, read by ggml's flash attention. The baseline every other policy is measured against.
class dense_cache : public kv_cache {
  public:
    // rotated: keys and values go through a Walsh-Hadamard rotation before they are stored, queries and results
    // likewise, as llama.cpp does for quantized caches: keys in runs of the largest power of two dividing head_dim,
    // values of 64. Throws livekv::error for a head_dim the type cannot store, or too little memory.
    dense_cache(ggml_type type, bool rotated, const kv_shape & shape, const kv_buffer_types & where);

    int64_t n_tokens() const override { return n_tokens_; }
    int64_t n_ctx() const override { return shape_.n_ctx; }
    size_t bytes() const override;
    void trim(int64_t n) noexcept override;
    token_run shiftable(int64_t n_keep, int64_t n_wanted) const override;
    void shift(const token_run & leaving) override;
    std::unique_ptr<kv_cache> fork() const override;
    kv_report report() const override;
    kv_layer_dump dump(int64_t il) const override;

    // For the nodes of a pass over n_new tokens.
    bool rotated() const { return rotated_; }
    uint64_t id() const { return id_; }        // no other cache has it
    int64_t n_rows_read(int64_t n_new) const;  // rows a pass reads, those beyond its tokens masked
    ggml_tensor * k(int64_t il) const { return k_[static_cast<size_t>(il)]; }  // [n_embd_kv, n_rows]
    ggml_tensor * v(int64_t il) const { return v_[static_cast<size_t>(il)]; }
    float largest() const;        // key or value, in magnitude, whose row is stored as numbers
    float largest_query() const;  // that ggml's attention takes, which rounds queries too
    int64_t n_layer() const { return shape_.n_layer(); }
    const kv_layer_shape & layer(int64_t il) const { return shape_.layers[static_cast<size_t>(il)]; }
    void begin(int64_t n_new) noexcept;
    void commit() noexcept;

    // Channels that are rotated together; x [head_dim, ...] contiguous.
    static ggml_tensor * rotate_keys(ggml_context * ctx, ggml_tensor * x);
    static ggml_tensor * rotate_values(ggml_context * ctx, ggml_tensor * x);

  private:
    // Sets rows of all layers to 0: masked rows are read too, and no NaN may lie there.
    void clear_rows(int64_t first, int64_t n) noexcept;
    kv_side_dump dump_rows(const ggml_tensor * cache, const kv_layer_shape & shape, int32_t rotation) const;

    ggml_type type_;
    bool rotated_;
    kv_shape shape_;
    kv_buffer_types where_;
    uint64_t id_;
    int64_t n_tokens_ = 0;
    int64_t n_new_ = 0;             // rows a pass writes behind them; 0 once committed
    std::vector<ggml_tensor *> k_;  // [n_layer]
    std::vector<ggml_tensor *> v_;  // [n_layer]
    std::vector<ggml_context_ptr> contexts_;
    std::vector<ggml_backend_buffer_ptr> buffers_;
};

}  // namespace livekv
