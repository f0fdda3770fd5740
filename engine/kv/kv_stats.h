#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kv/kv_method.h"

namespace livekv {

// The clipped running statistic of one kv head's key channels, over the chunks seen so far.
//   m_t = max_i |K_t[i, c]|;  v_t = min(m_t, N mu_(t-1));  mu_t = (1 - alpha) mu_(t-1) + alpha v_t;  mu_0 = m_0
// (the method's equations 3-2 to 3-4), in float32, but mu_t rounded to f16 where key_classes is on, per channel; with
// ema_minmax for the largest value and for the magnitude of the smallest apart.
class key_statistics {
  public:
    key_statistics(const kv_method & method, int64_t head_dim);

    // dense: f32 [n_tokens, head_dim], outliers and sinks already 0.
    void update(std::span<const float> dense);

    // The same from what a faster pass found: each channel's largest value and smallest, both over the dense part and
    // 0 (ema_minmax: over the dense part alone). high, low: [head_dim].
    void update(std::span<const float> high, std::span<const float> low);

    const std::vector<float> & high() const { return high_; }    // [head_dim]: mu, or that of the largest values
    const std::vector<float> & low() const { return low_; }      // [head_dim]: <= 0, of the smallest; ema_minmax only
    const std::vector<float> & bound() const { return bound_; }  // [head_dim]: N mu_(t-1); infinite in the first chunk

    // What the next chunk's statistics follow from: high, and with ema_minmax low behind it, [state_floats].
    static size_t state_floats(const kv_method & method, int64_t head_dim) {
        return static_cast<size_t>(head_dim) * (method.scale_method == kv_method::scale::ema_minmax ? 2 : 1);
    }
    std::vector<float> state() const;
    void set_state(std::span<const float> state);

  private:
    kv_method method_;
    std::vector<float> high_;
    std::vector<float> low_;
    std::vector<float> bound_;
};

// Indices of the k entries of largest magnitude among values[0], values[stride], ... (n of them), ascending; equal
// magnitudes go to the lower index. n < 2^31.
std::vector<int32_t> largest_entries(const float * values, int64_t n, int64_t stride, int32_t k);

}  // namespace livekv
