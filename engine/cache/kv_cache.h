#pragma once

#include <ggml-backend.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cache/kv_dump.h"
#include "cache/kv_options.h"
#include "cache/kv_report.h"

namespace livekv {

// What a cache needs to know of the model, and where each layer's part of it lives.
struct kv_shape {
    int64_t n_layer = 0;
    int64_t n_head = 0;
    int64_t n_head_kv = 0;
    int64_t head_dim = 0;
    int64_t n_ctx = 0;                                   // the most tokens a sequence may have
    int32_t n_threads = 1;                               // that compute a graph
    std::vector<ggml_backend_buffer_type_t> layer_buft;  // [n_layer]
    std::vector<bool> on_device;                         // [n_layer] what the livekv cache keeps on the GPU; or empty

    int64_t n_embd_kv() const { return n_head_kv * head_dim; }
};

// One sequence's keys and values over all layers. A forward pass over n new tokens is
//   begin(n) - for each layer: attend - set_inputs - compute the graph - verify - commit
// and until commit the sequence is what it was before.
class kv_cache {
  public:
    virtual ~kv_cache() = default;

    // The most tokens the next pass may have (a chunk is sealed where it ends), at least 1.
    virtual int64_t max_new() const { return INT64_MAX; }

    // Makes room for n_new tokens after the present ones. end_of_prompt: the next pass will be generated text.
    // Throws livekv::error when they do not fit.
    virtual void begin(int64_t n_new, bool end_of_prompt) = 0;

    // A graph built after one begin serves after any other with as many new tokens and an equal key.
    virtual int64_t graph_key() const = 0;

    // Adds the inputs this cache needs to a graph for the tokens announced to begin.
    virtual void add_inputs(ggml_context *, ggml_cgraph *) {}

    // Adds the nodes that store k and v, f32 [head_dim, n_head_kv, n_new], after RoPE, in layer il, and, unless q is
    // null, those by which q, f32 [head_dim, n_head, n_new], attends to all tokens up to its own with scores times
    // scale: f32 [head_dim * n_head, n_new].
    virtual ggml_tensor * attend(ggml_context * ctx, ggml_cgraph * graph, int64_t il, ggml_tensor * q, ggml_tensor * k,
                                 ggml_tensor * v, float scale) = 0;

    // Fills the inputs for the pass announced to begin.
    virtual void set_inputs() {}

    // The pass was computed. Throws livekv::error when it ran out of memory, or a key or value was not a finite number.
    virtual void verify() {}

    // The pass is sound: its tokens are in the cache now.
    virtual void commit() = 0;

    virtual int64_t n_tokens() const = 0;

    // Bytes the cache holds now, from its allocations.
    virtual size_t bytes() const = 0;

    // Forgets all but the first n_tokens tokens; n_tokens must not exceed n_tokens().
    virtual void trim(int64_t n_tokens) = 0;

    void reset() { trim(0); }

    // Appends copies of what is there until at least n_tokens are: a context that means nothing, to measure speed and
    // memory at lengths that would take too long to compute. Throws livekv::error where the policy cannot.
    virtual void repeat(int64_t n_tokens);

    // A second sequence that starts as this one is. What is sealed is shared, not copied.
    virtual std::unique_ptr<kv_cache> fork() const = 0;

    virtual kv_report report() const;

    // What layer il holds, copied and taken apart to be looked at.
    virtual kv_layer_dump dump(int64_t il) const = 0;
};

// The policies by name, in the order help shows them.
const std::vector<std::string> & kv_policy_names();

// Throws livekv::error for an unknown policy, options it cannot follow, a head_dim it cannot store, or too little
// memory.
std::unique_ptr<kv_cache> make_kv_cache(const kv_options & options, const kv_shape & shape);

}  // namespace livekv
