#pragma once

#include <ggml-cpp.h>

#include "kv/kv_cache.h"

namespace livekv {

// Every token's keys and values as rows of one ggml type (f16, q8_0, q4_0), quantized as they are written, in buffers
// of n_ctx rows a layer. The baseline every other policy is measured against.
class dense_cache : public kv_cache {
  public:
    dense_cache(ggml_type type, const kv_shape & shape);

    int64_t begin(int64_t n_new) override;
    void append(ggml_context * ctx, ggml_cgraph * graph, int64_t il, ggml_tensor * k, ggml_tensor * v,
                ggml_tensor * rows) override;
    kv_view view(ggml_context * ctx, int64_t il, int64_t n_kv) const override;
    void commit(int64_t n_new) override { n_tokens_ += n_new; }
    int64_t n_tokens() const override { return n_tokens_; }
    size_t bytes() const override;
    void trim(int64_t n_tokens) override;

  private:
    ggml_tensor * heads_of(ggml_context * ctx, ggml_tensor * cache, int64_t n_kv) const;

    kv_shape shape_;
    int64_t n_rows_;  // n_ctx rounded up to row_padding
    int64_t n_tokens_ = 0;
    std::vector<ggml_tensor *> k_;  // [n_layer] of [n_embd_kv, n_rows]
    std::vector<ggml_tensor *> v_;  // [n_layer] of [n_embd_kv, n_rows]
    std::vector<ggml_context_ptr> contexts_;
    std::vector<ggml_backend_buffer_ptr> buffers_;
};

}  // namespace livekv
