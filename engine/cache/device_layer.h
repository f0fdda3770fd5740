#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cache/livekv_layer.h"
#include "kernels/cuda/kernels.h"

namespace livekv {

// What all layers of a cache on the GPU share: workspace that no context makes larger.
class device_workspace {
  public:
    device_workspace(const livekv_layer_plan & plan, int64_t n_head);

    size_t bytes() const;

  private:
    friend class device_layer;

    kv_page attention_;  // f32, device::attention_floats
    kv_page queries_;    // f32 [chunk_size, n_head, head_dim]
    kv_page sealing_;    // u32, device::seal_words
};

// The work of a layer whose memory is the GPU's: what livekv_layer does on the CPU, put into a stream. The layer keeps
// the books.
class device_layer {
  public:
    device_layer(livekv_layer & layer, device_workspace & workspace, int64_t n_head);
    device_layer(const device_layer &) = delete;
    device_layer & operator=(const device_layer &) = delete;

    // Throws livekv::error, naming the option, for what the GPU's kernels do not do.
    static void require_supported(const livekv_layer_plan & plan);

    // Between begin and commit of the layer, in this order. k, v: f32 [n_new, n_head_kv, head_dim], rows `stride`
    // floats apart; q, out: f32 [n_new, n_head, head_dim].
    void store(const float * k, size_t k_stride, const float * v, size_t v_stride, device::stream s);
    void attend(const float * q, float * out, float scale, device::stream s);
    void seal(device::stream s);

    // When the stream has done it: the first token of the pass with a value that is not finite, or -1.
    int64_t first_bad() const;
    // Seconds of the last seal; 0 when the pass closed no chunk.
    double seal_seconds() const;

  private:
    struct release_on_host {
        void operator()(uint32_t * p) const { device::release_on_host(p); }
    };

    device_chunk entry(const livekv_layer::chunk & c) const;
    device_side side(const livekv_layer::chunk & c, kv_side which) const;
    void update_table(device::stream s);
    device_seal seal_of(const livekv_layer::chunk & c, const uint16_t * k, const uint16_t * v) const;

    livekv_layer & layer_;
    device_workspace & workspace_;
    int64_t n_head_;
    std::unique_ptr<uint32_t, release_on_host> bad_;  // on the host, written by the device
    std::unique_ptr<kv_page> table_;  // device_chunk, as many as there is room for
    int64_t n_chunk_tiles_ = 0;       // of the chunks in it
    device::stopwatch sealing_;
    bool sealed_ = false;
};

}  // namespace livekv
