#pragma once

#include <atomic>
#include <exception>
#include <vector>

#include "cache/device_layer.h"
#include "cache/device_node.h"
#include "cache/kv_cache.h"
#include "cache/livekv_layer.h"
#include "kernels/attention_job.h"

namespace livekv {

// The compressed cache: chunks are sealed as the prompt streams in, attention reads them as they are. Grows with the
// sequence; besides the chunks it holds one chunk's raw rows and workspace that no context makes larger. Its three
// steps a layer (store, attend, seal) are custom nodes of the graph: run by ggml's threads, or, where the layer is on
// the GPU, put into its stream.
class livekv_cache : public kv_cache {
  public:
    livekv_cache(const kv_options & options, const kv_shape & shape);

    int64_t max_new() const override;
    void begin(int64_t n_new, bool end_of_prompt) override;
    int64_t graph_key() const override { return 0; }
    ggml_tensor * attend(ggml_context * ctx, ggml_cgraph * graph, int64_t il, ggml_tensor * q, ggml_tensor * k,
                         ggml_tensor * v, float scale) override;
    void verify() override;
    void commit() override;
    int64_t n_tokens() const override { return layers_.front().n_tokens(); }
    size_t bytes() const override;
    void trim(int64_t n_tokens) override;
    void repeat(int64_t n_tokens) override;
    std::unique_ptr<kv_cache> fork() const override;
    kv_report report() const override;
    kv_layer_dump dump(int64_t il) const override;

  private:
    friend class livekv_file;

    // What a node's function is given: which layer of which cache.
    struct node {
        livekv_cache * cache;
        int64_t il;
        float scale;
    };
    static void store_node(ggml_tensor * dst, int ith, int nth, void * node);
    static void attend_node(ggml_tensor * dst, int ith, int nth, void * node);
    static void seal_node(ggml_tensor * dst, int ith, int nth, void * node);

    static void run_on_device(const device_node & node, ggml_tensor * dst, device::stream s);
    ggml_tensor * attend_on_device(ggml_context * ctx, ggml_cgraph * graph, int64_t il, ggml_tensor * q,
                                   ggml_tensor * k, ggml_tensor * v);

    // What nodes do runs in here: exceptions must not reach ggml's threads. The first one is thrown by verify; what
    // comes after it in the pass is left out.
    template <typename F>
    void guarded(F work);
    void note_bad(int64_t il, int64_t token);

    // The same sequence, each layer where shape wants it.
    livekv_cache(const livekv_cache & other, const kv_shape & shape);

    kv_options options_;
    kv_shape shape_;
    const cpu_kernels & kernels_;
    std::vector<livekv_layer> layers_;
    std::vector<node> nodes_;  // [n_layer]
    raw_rows passing_;         // a chunk that fills in one pass, of the layer being computed
    raw_rows device_passing_;  // the same on the GPU
    // Layers on the GPU: [n_layer], null where the layer is not.
    std::unique_ptr<device_workspace> device_workspace_;
    std::vector<std::unique_ptr<device_layer>> device_layers_;
    std::vector<device_node> device_nodes_;  // [n_layer]
    attention_job job_;
    int64_t n_new_ = 0;
    double seal_seconds_ = 0.0;
    std::atomic<int64_t> first_bad_;  // layer << 32 | token of the pass, where a value was not finite; none_bad
    std::atomic<bool> failed_{false};
    std::exception_ptr failure_;  // why, when failed_
};

}  // namespace livekv
