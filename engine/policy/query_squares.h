#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace livekv {

// What a kv head's queries make of its channels: the mean over all tokens so far, and over the query heads that share
// the head, of the square of each channel of the query. Kept as its root, [head_dim] numbers that f16 holds.
class query_squares {
  public:
    // root: after n tokens; empty: none were seen.
    query_squares(int64_t head_dim, std::span<const float> root, int64_t n_tokens);

    // A token's queries, f32 [group, head_dim].
    void add(const float * q, int64_t group);

    // A token's that waited: as pack wrote it, or query_means::pack one of its heads.
    void add_packed(const uint8_t * row);

    std::vector<float> mean() const;  // [head_dim]
    void root(std::span<float> to) const;

    // A token's root mean square over its group, in a byte a channel: the upper half of an f16 number.
    static void pack(const float * q, int64_t group, int64_t head_dim, uint8_t * row);

  private:
    std::vector<double> sum_;  // [head_dim]
    int64_t n_ = 0;
};

}  // namespace livekv
