#include "policy/query_squares.h"

#include <algorithm>
#include <cmath>

#include "kv/f16.h"

namespace livekv {

namespace {

constexpr double largest = 65504.0;

// Of a number that may be none, or too large: a query a model has broken does not break what is stored.
double bounded_square(float x) {
    const double square = static_cast<double>(x) * x;
    return square < largest * largest ? square : largest * largest;
}

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
        const double root = f16_to_f32(static_cast<uint16_t>(row[c] << 8));
        sum_[c] += root * root;
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
        to[c] = std::min(std::sqrt(squares[c]), static_cast<float>(largest));
    }
}

void query_squares::pack(const float * q, int64_t group, int64_t head_dim, uint8_t * row) {
    std::vector<double> mean(static_cast<size_t>(head_dim));
    add_mean_squares(q, group, mean);
    for (size_t c = 0; c < mean.size(); ++c) {
        const int32_t half = f32_to_f16_finite(static_cast<float>(std::sqrt(mean[c]))) + 0x80;
        row[c] = static_cast<uint8_t>(std::min(half >> 8, 0x7b));
    }
}

}  // namespace livekv
