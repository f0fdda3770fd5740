#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cache/kv_dump.h"
#include "cache/kv_page.h"
#include "cache/kv_report.h"
#include "kernels/attention.h"
#include "kernels/cpu/kernels.h"
#include "kernels/seal.h"
#include "kv/kv_block.h"
#include "kv/kv_method.h"
#include "kv/kv_stats.h"

namespace livekv {

// What one layer of a livekv cache does with its chunks.
struct livekv_layer_plan {
    int64_t n_head_kv = 0;
    int64_t head_dim = 0;
    int64_t chunk_size = 0;
    int64_t warmup_chunks = 0;  // whose keys stay exact while the statistics settle
    bool warmup_keep = false;   // and for ever
    bool bypass = false;        // one of the layers kept at higher precision
    bool seals = true;          // false: chunks stay f16 (bypass layers of type f16)
    bool measure_error = false;
    bool on_device = false;  // its memory is the GPU's, and what is done with it too (device_layer.h)
    int32_t k_rotation = 0;  // keys and values are stored rotated in runs of this many channels; 0: as they are
    int32_t v_rotation = 0;
    kv_method method;

    size_t row() const { return static_cast<size_t>(n_head_kv * head_dim); }
};

// Raw keys and values of the newest tokens: f16 rows [n_tokens, n_head_kv, head_dim].
struct raw_rows {
    row_buffer k;
    row_buffer v;

    size_t bytes() const { return k.bytes() + v.bytes(); }
    void reserve(size_t n_values, bool on_device = false);
    void release();
};

// One layer's keys and values: sealed chunks, sinks and the raw tail, and the step in which a pass adds to them. What a
// pass does to the layer becomes part of it on commit only.
class livekv_layer {
  public:
    livekv_layer(const livekv_layer_plan & plan, const cpu_kernels & kernels);

    int64_t n_tokens() const { return n_chunked_ + n_tail_; }
    int64_t n_tail() const { return n_tail_; }

    // Allocates what a pass over n_new tokens needs. close: the tail with them becomes a chunk, sealed if seal says
    // so. passing: a buffer all layers share, which a chunk that fills in one pass goes through.
    void begin(int64_t n_new, bool close, bool seal, raw_rows & passing);

    // Stores token i of the pass: k, v f32 [n_head_kv, head_dim]. Different tokens may be stored at the same time.
    // Returns false when a value is not finite in f16.
    bool store(int64_t i, const float * k, const float * v);

    // What the pass's tokens attend to, themselves included; valid until commit.
    std::span<const kv_segment> segments() const { return segments_; }

    // The pieces of sealing, to be done once each in any order after attention.
    int64_t n_seal_jobs() const { return step_.close ? 2 * plan_.n_head_kv : 0; }
    void seal(int64_t job);

    void commit();
    // Throws nothing: what it was before is gone.
    void trim(int64_t n_tokens) noexcept;
    void repeat(int64_t n_tokens);  // as kv_cache says

    // A layer that starts as this one is; sealed chunks are shared.
    livekv_layer fork() const;

    // The same layer in the host's memory or the GPU's, as it was committed last.
    livekv_layer copy(bool to_device) const;

    size_t bytes() const;
    void add_to(kv_report & report) const;

    // What the layer holds, copied and taken apart.
    kv_side_dump dump(kv_side side) const;

    const livekv_layer_plan & plan() const { return plan_; }

  private:
    friend class livekv_file;
    friend class device_layer;

    struct chunk {
        std::shared_ptr<kv_page> k;  // blocks [n_head_kv], or f16 rows
        std::shared_ptr<kv_page> v;
        bool k_sealed = false;
        bool v_sealed = false;
        int32_t n_stored = 0;  // tokens in the pages
        int32_t n_tokens = 0;  // of these, what a trim left
        int32_t n_sinks = 0;   // of these, first ones that live in sinks_
    };

    struct error_sums {
        double signal = 0.0;
        double noise = 0.0;
        int64_t n_saturated = 0;
    };

    // The pass at hand.
    struct step {
        int64_t n_new = 0;
        bool close = false;
        raw_rows * rows = nullptr;  // tail_, or the buffer all layers share
        chunk closed;
        raw_rows sinks;                          // of the sequence's first chunk
        std::vector<std::shared_ptr<kv_page>> late_keys;  // [chunks_.size()] sealed pages of exact keys, or null
        std::vector<key_statistics> statistics;  // [n_head_kv], moved by this chunk
        std::vector<error_sums> errors;          // [2 * n_head_kv], with this chunk's
        std::shared_ptr<kv_page> state;          // statistics, of a layer on the device
    };

    std::shared_ptr<kv_page> make_page(kv_side side, bool sealed, int64_t n) const;
    chunk_rows head_rows(const uint16_t * rows, const chunk & c, int64_t head) const;
    uint8_t * block_of(kv_page & page, int64_t head) const;
    void note_error(const chunk_rows & rows, const uint8_t * block, int64_t n_saturated, int64_t slot);
    void rebuild_segments(int64_t n_open, const raw_rows & rows);
    std::vector<float> statistics_state() const;  // [n_head_kv, 3, head_dim]
    void reset() noexcept;

    livekv_layer_plan plan_;
    const cpu_kernels * kernels_;
    std::vector<chunk> chunks_;
    int64_t n_chunked_ = 0;  // tokens in chunks_
    raw_rows sinks_;         // [n_sinks] rows
    raw_rows tail_;          // [n_tail_] rows
    int64_t n_tail_ = 0;
    std::vector<key_statistics> statistics_;  // [n_head_kv]; on the device only how many chunks they have seen
    std::shared_ptr<kv_page> state_;          // of a layer on the device: f32 [n_head_kv, 3, head_dim]
    int64_t n_unchanged_ = 0;                 // first chunks that are what the device's table of them says
    step step_;
    std::vector<kv_segment> segments_;
    std::vector<error_sums> errors_;  // [2 * n_head_kv]: keys, then values
};

}  // namespace livekv
