#pragma once

#include <ggml-backend.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace livekv {

// What a cache needs to know of the model, and where each layer's part of it lives.
struct kv_shape {
    int64_t n_layer = 0;
    int64_t n_head_kv = 0;
    int64_t head_dim = 0;
    int64_t n_ctx = 0;  // the most tokens a sequence may have
    std::vector<ggml_backend_buffer_type_t> layer_buft;  // [n_layer]

    int64_t n_embd_kv() const { return n_head_kv * head_dim; }
};

// What attention reads of one layer: rows of a uniform type. Compressed policies will add their blocks here.
struct kv_view {
    ggml_tensor * k = nullptr;  // [head_dim, n_kv, n_head_kv]
    ggml_tensor * v = nullptr;  // [head_dim, n_kv, n_head_kv]
};

// One sequence's keys and values over all layers. A forward pass over n new tokens is
//   begin(n) - for each layer: append, view - compute the graph - commit(n)
// and until commit the sequence is what it was before.
class kv_cache {
  public:
    virtual ~kv_cache() = default;

    // Makes room for n_new tokens after the present ones and returns n_kv, the number of rows view will show:
    // at least n_tokens() + n_new; rows beyond that are to be masked. Throws livekv::error when they do not fit.
    virtual int64_t begin(int64_t n_new) = 0;

    // Adds the nodes that store k and v, f32 [head_dim, n_head_kv, n_new], after RoPE, in layer il.
    // rows: i64 [n_new], their positions in the sequence.
    virtual void append(ggml_context * ctx, ggml_cgraph * graph, int64_t il, ggml_tensor * k, ggml_tensor * v,
                        ggml_tensor * rows) = 0;

    // The first n_kv rows of layer il, as nodes of ctx.
    virtual kv_view view(ggml_context * ctx, int64_t il, int64_t n_kv) const = 0;

    // The tokens announced to begin are in the cache now.
    virtual void commit(int64_t n_new) = 0;

    virtual int64_t n_tokens() const = 0;

    // Bytes the cache holds now, from its allocations.
    virtual size_t bytes() const = 0;

    // Forgets all but the first n_tokens tokens; n_tokens must not exceed n_tokens().
    virtual void trim(int64_t n_tokens) = 0;

    void reset() { trim(0); }
};

// The policies by name, in the order help shows them.
const std::vector<std::string> & kv_policy_names();

// Throws livekv::error for an unknown policy, a head_dim it cannot store, or too little memory.
std::unique_ptr<kv_cache> make_kv_cache(const std::string & policy, const kv_shape & shape);

}  // namespace livekv
