#pragma once

#include <ggml-cpp.h>

#include "cache/kv_cache.h"

namespace livekv {

// Every token's keys and values as rows of one ggml type (f16, q8_0, q4_0), quantized as they are written, in buffers
// of n_ctx rows a layer, read by ggml's flash attention. The baseline every other policy is measured against.
class dense_cache : public kv_cache {
  public:
    // rotated: keys and values go through a Walsh-Hadamard rotation before they are stored, queries and results
    // likewise, as llama.cpp does for quantized caches: keys in runs of the largest power of two dividing head_dim,
    // values of 64.
    dense_cache(ggml_type type, bool rotated, const kv_shape & shape);

    void begin(int64_t n_new, bool end_of_prompt) override;
    int64_t graph_key() const override { return n_kv_; }
    void add_inputs(ggml_context * ctx, ggml_cgraph * graph) override;
    ggml_tensor * attend(ggml_context * ctx, ggml_cgraph * graph, int64_t il, ggml_tensor * q, ggml_tensor * k,
                         ggml_tensor * v, float scale) override;
    void set_inputs() override;
    void commit() override;
    int64_t n_tokens() const override { return n_tokens_; }
    size_t bytes() const override;
    void trim(int64_t n_tokens) override;
    std::unique_ptr<kv_cache> fork() const override;
    kv_layer_dump dump(int64_t il) const override;

  private:
    ggml_tensor * heads_of(ggml_context * ctx, ggml_tensor * cache) const;
    // Sets rows first to first + n - 1 of all layers to 0: masked rows are read too, and no NaN may lie there.
    void clear_rows(int64_t first, int64_t n);
    kv_side_dump dump_rows(const ggml_tensor * cache, int32_t rotation) const;

    ggml_type type_;
    bool rotated_;
    kv_shape shape_;
    int64_t n_rows_;  // n_ctx rounded up to row_padding
    int64_t n_tokens_ = 0;
    std::vector<ggml_tensor *> k_;  // [n_layer] of [n_embd_kv, n_rows]
    std::vector<ggml_tensor *> v_;  // [n_layer] of [n_embd_kv, n_rows]
    std::vector<ggml_context_ptr> contexts_;
    std::vector<ggml_backend_buffer_ptr> buffers_;

    // The pass announced to begin, and its graph's inputs.
    int64_t n_new_ = 0;                     // 0 once committed
    int64_t n_kv_ = 0;                      // rows it reads, those beyond its tokens masked
    ggml_tensor * rows_ = nullptr;          // i64 [n_new], where its tokens are stored
    ggml_tensor * mask_ = nullptr;          // f16 [n_kv, n_new], 0 or -inf
    std::vector<int64_t> row_values_;       // [n_new]
    std::vector<ggml_fp16_t> mask_values_;  // [n_new, n_kv]
};

}  // namespace livekv
