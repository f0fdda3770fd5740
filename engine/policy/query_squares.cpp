#include "policy/query_squares.h"

#include "kv/query_square.h"

namespace livekv {

namespace {

// to [head_dim] += each channel's mean square over the group's heads.
void add_mean_squares(const float * q, int64_t group, std::span<double> to) {
    const double each = 1.0 / static_cast<double>(group);
    for (int64_t h = 0; h < group; ++h) {
        for (size_t c = 0; c < to.size(); ++c) {
            to[c] += each * bounded_square(q[static_cast<size_t>(h) * to.size() + c]);
        }
    }
}

}  // namespace

query_squares::query_squares(int64_t head_dim, std::span<const float> root, int64_t n_tokens)
    : sum_(static_cast<size_t>(head_dim)), n_(root.empty() ? 0 : n_tokens) {
    for (size_t c = 0; c < root.size(); ++c) {
        sum_[c] = static_cast<double>(root[c]) * root[c] * static_cast<double>(n_);
    }
}

void query_squares::add(const float * q, int64_t group) {
    add_mean_squares(q, group, sum_);
    ++n_;
}

void query_squares::add_packed(const uint8_t * row) {
    for (size_t c = 0; c < sum_.size(); ++c) {
        sum_[c] += square_of_packed(row[c]);
    }
    ++n_;
}

std::vector<float> query_squares::mean() const {
    std::vector<float> mean;
    for (const double sum : sum_) {
        mean.push_back(n_ > 0 ? static_cast<float>(sum / static_cast<double>(n_)) : 0.0f);
    }
    return mean;
}

void query_squares::root(std::span<float> to) const {
    const std::vector<float> squares = mean();
    for (size_t c = 0; c < to.size(); ++c) {
        to[c] = bounded_root(squares[c]);
    }
}

void query_squares::pack(const float * q, int64_t group, int64_t head_dim, uint8_t * row) {
    std::vector<double> mean(static_cast<size_t>(head_dim));
    add_mean_squares(q, group, mean);
    for (size_t c = 0; c < mean.size(); ++c) {
        row[c] = packed_root(mean[c]);
    }
}

}  // namespace livekv
