#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace livekv {

// The mean query of each query head that shares a kv head, over a chunk's tokens: what error feedback (key_feedback.h)
// keeps clear of errors. Nothing of it outlives the chunk.
class query_means {
  public:
    query_means(int64_t group, int64_t head_dim);

    // A token's queries, f32 [group, head_dim].
    void add(const float * q);

    // Token i of the chunk, that waited: as pack wrote it.
    void add_packed(const uint8_t * row, int64_t i);

    std::vector<float> means() const;  // [group, head_dim], finite; 0 where nothing was seen

    // Of token i of a chunk one head's query, the heads in turn, in a byte a channel: the upper half of an f16 number.
    static void pack(const float * q, int64_t i, int64_t group, int64_t head_dim, uint8_t * row);

  private:
    size_t head_dim_;
    std::vector<float> sums_;  // [group, head_dim]
    std::vector<int64_t> n_;   // [group]
};

}  // namespace livekv
