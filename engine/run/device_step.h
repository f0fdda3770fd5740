#pragma once

#include <cstdint>
#include <memory>

#include "kernels/cuda/kernels.h"
#include "run/layer_step.h"

namespace livekv {

// What all layers' work on the GPU shares: workspace that no context makes larger.
class device_workspace {
  public:
    // Room for a pass over layers of this plan. Throws std::bad_alloc.
    void reserve(const chunk_plan & plan, int64_t n_head);

    size_t bytes() const;

    float * attention() { return attention_->as<float>(); }
    float * queries() { return queries_ ? queries_->as<float>() : nullptr; }
    uint32_t * sealing() { return sealing_->as<uint32_t>(); }

  private:
    std::unique_ptr<page> attention_;  // f32, device::attention_floats
    std::unique_ptr<page> queries_;    // f32 [chunk_size, n_head, head_dim]
    std::unique_ptr<page> sealing_;    // u32, device::seal_words, zeros at first
};

// The work of a step whose layer is in the GPU's memory, put into a stream.
class device_step {
  public:
    explicit device_step(int64_t n_head);

    // Throws livekv::error, naming the option, for what the GPU's kernels do not do.
    static void require_supported(const chunk_plan & plan);

    // Between begin and commit of the step, in this order. k, v: f32 [n_new, n_head_kv, head_dim], rows `stride` floats
    // apart; q, out: f32 [n_new, n_head, head_dim], q null where nobody reads it.
    void store(const layer_step & step, const float * k, size_t k_stride, const float * v, size_t v_stride,
               const float * q, device::stream s);
    void attend(const layer_step & step, const float * q, float * out, float scale, device_workspace & workspace,
                device::stream s);
    // q: as attend's, read where the plan reads queries.
    void seal(layer_step & step, const float * q, device_workspace & workspace, device::stream s);

    // When the stream has done it: the first token of the pass with a query, key or value that is not finite, or -1.
    int64_t first_bad() const;
    // Seconds of the last seal; 0 when the pass closed no chunk.
    double seal_seconds() const;

  private:
    struct release_on_host {
        void operator()(uint32_t * p) const { device::release_on_host(p); }
    };

    void update_table(const kv_layer & layer, device::stream s);

    int64_t n_head_;
    std::unique_ptr<uint32_t, release_on_host> bad_;  // on the host, written by the device
    std::unique_ptr<page> table_;                     // device_chunk, as many as there is room for
    size_t n_listed_ = 0;                             // chunks in it
    uint64_t n_edits_ = 0;                            // of the layer, when they were
    int64_t n_chunk_tiles_ = 0;                       // of these chunks
    device::stopwatch sealing_;
    bool sealed_ = false;
};

}  // namespace livekv
