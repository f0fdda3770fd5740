#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "kernels/cpu/kernels.h"
#include "kv/key_feedback.h"
#include "kv/kv_block.h"
#include "kv/kv_classes.h"
#include "kv/kv_grid.h"
#include "kv/kv_stats.h"

namespace livekv {

// One kv head of a chunk as it lies in memory: f16 rows, `stride` values apart.
struct chunk_rows {
    const uint16_t * rows = nullptr;
    size_t stride = 0;
    int64_t n_tokens = 0;
    int64_t head_dim = 0;
    int64_t n_sinks = 0;  // first rows that are stored elsewhere and count as 0

    std::vector<float> to_f32(const cpu_kernels & kernels) const;  // [n_tokens, head_dim]
};

// Seals chunks: byte for byte what pack_block makes of seal_keys and seal_values (kv_quant.h says what that is), in
// passes that run along the rows so that compilers make vector code of them. Keys: split_keys, then the statistics may
// be moved by high and low, then seal. Values: seal_values alone. One object a thread.
class chunk_sealer {
  public:
    chunk_sealer(const kv_method & method, const cpu_kernels & kernels) : method_(method), kernels_(kernels) {}

    void split_keys(const chunk_rows & chunk);
    std::span<const float> high() const { return high_; }  // [head_dim] largest dense value of each channel
    std::span<const float> low() const { return low_; }    // [head_dim] smallest
    void seal_keys(const key_statistics & statistics, uint8_t * block);
    // In classes of width, as seal_keys_by_class (kv_classes.h).
    void seal_keys(const key_statistics & statistics, const query_moments & queries, uint8_t * block);

    void seal_values(const chunk_rows & chunk, uint8_t * block);

    int64_t n_saturated() const { return n_saturated_; }  // of the block sealed last, as sealed_chunk counts them

  private:
    void load(const chunk_rows & chunk);
    void take_key_outliers();
    void take_value_outliers();
    void group_ranges(size_t first, size_t last);
    void group_moments(size_t first, size_t last, std::span<const float> bound, channel_range * ranges);
    void set_grids(std::span<const class_grid> grids);
    void quantize_classes(size_t first, size_t last);
    void quantize_with_feedback(size_t first, size_t last, const key_feedback & feedback, const key_classes & classes);
    void pack_classes(const kv_block_header & h, const key_classes & classes, uint8_t * block) const;
    void quantize_rows(size_t first, size_t last, const kv_block_header & h);
    std::pair<float, float> row_range(size_t t, float start, bool without_apart) const;
    void quantize_row(size_t t, const kv_grid & g, const kv_block_header & h);
    void set_grid(size_t i, const kv_grid & g);
    void pack_codes(const kv_block_header & h, uint8_t * block) const;
    void write_outliers(const kv_block_header & h, uint8_t * block) const;

    kv_method method_;
    const cpu_kernels & kernels_;
    chunk_rows chunk_;
    size_t n_ = 0;
    size_t d_ = 0;
    std::vector<float> dense_;    // [n, d], 0 where an entry is stored apart
    std::vector<uint8_t> apart_;  // [n, d]
    std::vector<uint8_t> codes_;  // [n, d], u of kv_block.h
    std::vector<float> top_;      // [k, d] largest magnitudes of each channel
    struct outlier {
        uint32_t position;  // token * d + channel
        float value;
    };
    std::vector<outlier> outliers_;
    std::vector<float> high_;        // [d]
    std::vector<float> low_;         // [d]
    std::vector<float> range_high_;  // [d] of a group
    std::vector<float> range_low_;
    std::vector<float> scale_;  // [d] or [1]: the grids of the rows at hand
    std::vector<float> zero_;
    std::vector<float> top_code_;
    std::vector<float> code_low_;
    std::vector<float> code_high_;
    int64_t n_saturated_ = 0;
};

}  // namespace livekv
