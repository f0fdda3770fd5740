#include "policy/query_means.h"

#include "kv/query_square.h"

namespace livekv {

query_means::query_means(int64_t group, int64_t head_dim)
    : head_dim_(static_cast<size_t>(head_dim)),
      sums_(static_cast<size_t>(group * head_dim)),
      n_(static_cast<size_t>(group)) {}

void query_means::add(const float * q) {
    for (size_t i = 0; i < sums_.size(); ++i) {
        sums_[i] += q[i];
    }
    for (int64_t & n : n_) {
        ++n;
    }
}

void query_means::add_packed(const uint8_t * row, int64_t i) {
    const size_t head = static_cast<size_t>(i) % n_.size();
    for (size_t c = 0; c < head_dim_; ++c) {
        sums_[head * head_dim_ + c] += query_of_packed(row[c]);
    }
    ++n_[head];
}

std::vector<float> query_means::means() const {
    std::vector<float> means;
    for (size_t i = 0; i < sums_.size(); ++i) {
        const int64_t n = n_[i / head_dim_];
        means.push_back(n > 0 ? bounded_query(sums_[i] / static_cast<float>(n)) : 0.0f);
    }
    return means;
}

void query_means::pack(const float * q, int64_t i, int64_t group, int64_t head_dim, uint8_t * row) {
    const float * const one = q + i % group * head_dim;
    for (int64_t c = 0; c < head_dim; ++c) {
        row[c] = packed_query(one[c]);
    }
}

}  // namespace livekv
