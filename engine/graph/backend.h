#pragma once

#include <ggml-cpp.h>

#include <cstdint>

namespace livekv {

// The devices an engine computes on, and the scheduler that places a graph's nodes on them. Not thread-safe.
class backend {
  public:
    // with_gpu: the model has weights on the first GPU. n_nodes: as for reserve_nodes.
    // Throws livekv::error when a device cannot be opened.
    backend(int32_t n_threads, bool with_gpu, size_t n_nodes);
    ~backend();
    backend(backend &&) = delete;

    // Makes room for graphs of n nodes. Throws on too little memory. The graph last allocated may be gone.
    void reserve_nodes(size_t n);

    // Allocates the graph's intermediate tensors; the previous graph's are gone. Throws on too little memory.
    void allocate(ggml_cgraph * graph);

    // Runs the graph last allocated, waits for it. Throws when a device reports failure or threads cannot be started.
    void compute(ggml_cgraph * graph);

    // Where a layer's cache belongs.
    ggml_backend_buffer_type_t buffer_type(bool on_gpu) const;

    // Whether the livekv cache of a layer is the device's: it is where the layer is on the GPU. Where
    // a device stands in for the GPU (tests), every layer's is.
    bool caches_on_device(bool on_gpu) const;

    size_t workspace_bytes() const;

  private:
    int32_t n_threads_;
    ggml_backend_ptr gpu_;
    ggml_backend_ptr kv_;  // beside gpu_, for the livekv cache's nodes
    ggml_backend_ptr cpu_;
    ggml_backend_sched_ptr sched_;
    size_t n_nodes_ = 0;  // sched_ has room for
};

}  // namespace livekv
