#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace livekv {

// How the livekv policy compresses: the method's constants (design: options). One set for a whole cache.
struct kv_method {
    enum class scale { ema_absmax, ema_minmax };

    int32_t k_bits = 4;  // of a key's code: 2, 3, 4, 5 or 8
    int32_t v_bits = 4;
    double ema_alpha = 0.1;      // weight of the newest chunk in the running statistic, (0, 1]
    double clip_factor = 4.0;    // a chunk moves the statistic by at most this times its last value, >= 1
    double outlier_ratio = 0.01; // share of entries stored apart, 0 to 0.1; 0: none
    int32_t sink_tokens = 4;     // first tokens of a sequence, kept exact
    scale scale_method = scale::ema_absmax;

    // Entries stored apart of n: at least one, unless the ratio is 0.
    int32_t n_outliers(int64_t n) const;
};

// The clipped running statistic of one kv head's key channels, over the chunks sealed so far.
//   m_t = max_i |K_t[i, c]|;  v_t = min(m_t, N mu_(t-1));  mu_t = (1 - alpha) mu_(t-1) + alpha v_t;  mu_0 = m_0
// (the method's equations 3-2 to 3-4), in float32, per channel; with ema_minmax for the largest value and for the
// magnitude of the smallest apart.
class key_statistics {
  public:
    key_statistics(const kv_method & method, int64_t head_dim);

    // dense: f32 [n_tokens, head_dim], outliers and sinks already 0.
    void update(std::span<const float> dense);

    void reset() { n_chunks_ = 0; }

    int64_t n_chunks() const { return n_chunks_; }
    const std::vector<float> & high() const { return high_; }  // [head_dim]: mu, or that of the largest values
    const std::vector<float> & low() const { return low_; }    // [head_dim]: <= 0, of the smallest; ema_minmax only

  private:
    float moved(float mu, float seen) const;

    kv_method method_;
    int64_t head_dim_;
    int64_t n_chunks_ = 0;
    std::vector<float> high_;
    std::vector<float> low_;
};

// Indices of the k entries of largest magnitude among values[0], values[stride], ... (n of them), ascending; equal
// magnitudes go to the lower index. n < 2^31.
std::vector<int32_t> largest_entries(const float * values, int64_t n, int64_t stride, int32_t k);

}  // namespace livekv
