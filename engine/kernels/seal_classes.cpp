// Keys sealed in classes of width: what kv_classes.h says, in passes along the rows.

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>

#include "kernels/pack_brick.h"
#include "kernels/seal.h"
#include "kv/f16.h"
#include "kv/kv_pack.h"
#include "unaligned.h"

namespace livekv {

// The channels' ranges over rows first ... last - 1.
void chunk_sealer::group_moments(size_t first, size_t last, std::span<const float> bound, channel_range * ranges) {
    if (first == last) {
        std::fill_n(ranges, d_, channel_range{});
        return;
    }
    range_low_.assign(dense_.begin() + static_cast<int64_t>(first * d_),
                      dense_.begin() + static_cast<int64_t>(first * d_ + d_));
    range_high_ = range_low_;
    for (size_t t = first + 1; t < last; ++t) {
        for (size_t c = 0; c < d_; ++c) {
            const float x = dense_[t * d_ + c];
            range_high_[c] = x > range_high_[c] ? x : range_high_[c];
            range_low_[c] = x < range_low_[c] ? x : range_low_[c];
        }
    }
    std::vector<float> sum(d_);
    std::vector<float> squares(d_);
    for (size_t t = first; t < last; ++t) {
        for (size_t c = 0; c < d_; ++c) {
            const float above = dense_[t * d_ + c] - range_low_[c];
            sum[c] += above;
            squares[c] += above * above;
        }
    }
    for (size_t c = 0; c < d_; ++c) {
        const float at_most = bound.empty() ? std::numeric_limits<float>::infinity() : bound[c];
        ranges[c] = range_of(range_low_[c], range_high_[c], sum[c], squares[c], last - first, at_most);
    }
}

void chunk_sealer::seal_keys(const key_statistics & statistics, const query_moments & queries, uint8_t * block) {
    const kv_block_header h = block_header(method_, kv_side::key, chunk_.n_tokens, chunk_.head_dim);
    const kv_block_map map = kv_map(h);
    std::memset(block, 0, map.bytes);
    store(block, h);
    n_saturated_ = 0;
    const size_t n_apart = static_cast<size_t>(chunk_.n_sinks);
    const size_t n_groups = static_cast<size_t>(map.n_scales) / d_;
    const auto rows_of = [&](size_t group) {
        const size_t first = std::min(std::max(group * h.group, n_apart), n_);
        return std::pair(first, std::max(std::min((group + 1) * h.group, n_), first));
    };
    const bool bounded = method_.scale_method == kv_method::scale::ema_clipped;
    std::vector<channel_range> ranges(n_groups * d_);
    std::vector<float> variance(d_);
    std::vector<float> span(d_);
    for (size_t g = 0; g < n_groups; ++g) {
        const auto [first, last] = rows_of(g);
        channel_range * const here = ranges.data() + g * d_;
        group_moments(first, last, bounded ? std::span(statistics.bound()) : std::span<const float>(), here);
        for (size_t c = 0; c < d_; ++c) {
            variance[c] += here[c].variance;
            span[c] += here[c].square();
        }
    }
    const key_classes classes = choose_classes({queries.q2, variance, span}, h.width_sum);
    std::vector<int32_t> bits(d_);
    for (size_t i = 0; i < d_; ++i) {
        bits[classes.order[i]] = classes.widths[i / 4];
        store(block + map.order + 2 * i, classes.order[i]);
    }
    std::copy(classes.widths.begin(), classes.widths.end(), block + map.widths);
    std::optional<key_feedback> feedback;
    if (!queries.means.empty()) {
        feedback.emplace(queries.q2, queries.means, classes.order);
    }
    std::vector<class_grid> grids;
    for (size_t g = 0; g < n_groups; ++g) {
        grids.clear();
        for (size_t c = 0; c < d_; ++c) {
            const channel_range & r = ranges[g * d_ + c];
            grids.emplace_back(r.low, r.high, r.mean, bits[c]);
        }
        for (size_t i = 0; i < d_; ++i) {
            const class_grid & grid = grids[classes.order[i]];
            store(block + map.scales + 2 * (g * d_ + i), f32_to_f16(grid.scale));
            store(block + map.minima + 2 * (g * d_ + i), f32_to_f16(grid.minimum));
        }
        const auto [first, last] = rows_of(g);
        set_grids(grids);
        quantize_classes(first, last);
        if (feedback) {
            quantize_with_feedback(first, last, *feedback, classes);
        }
    }
    std::fill_n(codes_.begin(), n_apart * d_, uint8_t{0});
    pack_classes(h, classes, block);
}

// Those of the channels of the rows at hand.
void chunk_sealer::set_grids(std::span<const class_grid> grids) {
    for (std::vector<float> * v : {&scale_, &zero_, &top_code_, &code_low_, &code_high_}) {
        v->resize(d_);
    }
    for (size_t c = 0; c < d_; ++c) {
        const class_grid & g = grids[c];
        scale_[c] = std::max(g.scale, 0x1p-24f);
        zero_[c] = g.minimum;
        top_code_[c] = g.top;
        const bool stored = g.top > 0.0f;
        code_low_[c] = stored ? g.minimum - 0.5f * g.scale : -std::numeric_limits<float>::infinity();
        code_high_[c] = stored ? g.minimum + (g.top + 0.5f) * g.scale : std::numeric_limits<float>::infinity();
    }
}

// Codes of rows first ... last - 1.
void chunk_sealer::quantize_classes(size_t first, size_t last) {
    // Copies of the pointers: a byte that is stored might be one of a member's, and each would be read anew.
    const size_t d = d_;
    const float * const scale = scale_.data();
    const float * const zero = zero_.data();
    const float * const top = top_code_.data();
    const float * const low = code_low_.data();
    const float * const high = code_high_.data();
    int32_t n_saturated = 0;
    for (size_t t = first; t < last; ++t) {
        const float * const row = dense_.data() + t * d;
        uint8_t * const codes = codes_.data() + t * d;
        for (size_t c = 0; c < d; ++c) {
            const float x = row[c];
            n_saturated += (x < low[c]) | (x > high[c]);
            const float steps = (x - zero[c]) / scale[c];
            const float at_least = steps > 0.0f ? steps : 0.0f;
            const float bounded = at_least < top[c] ? at_least : top[c];
            codes[c] = static_cast<uint8_t>(static_cast<int32_t>((bounded + 12582912.0f) - 12582912.0f));
        }
    }
    n_saturated_ += n_saturated;
}

// The codes of these rows once more, by error feedback (kv/key_feedback.h): channel after channel, many rows beside
// each other.
void chunk_sealer::quantize_with_feedback(size_t first, size_t last, const key_feedback & feedback,
                                          const key_classes & classes) {
    constexpr size_t lanes = 32;
    const size_t r = feedback.n_means;
    std::vector<float> all_sums(r * lanes);  // [r, lanes]
    for (size_t row = first; row < last; row += lanes) {
        const size_t n_here = std::min(lanes, last - row);
        std::fill(all_sums.begin(), all_sums.end(), 0.0f);
        for (size_t i = 0; i < d_; ++i) {
            const size_t c = classes.order[i];
            const float * const gain = feedback.gain.data() + i * r;
            const float * const weight = feedback.weight.data() + i * r;
            const float scale = scale_[c];
            const float zero = zero_[c];
            const float top = top_code_[c];
            const float step = top > 0.0f ? scale : 0.0f;
            float x[lanes] = {};
            float target[lanes];  // at first what is added to x
            for (size_t t = 0; t < n_here; ++t) {
                x[t] = dense_[(row + t) * d_ + c];
            }
            std::fill_n(target, lanes, 0.0f);
            for (size_t h = 0; h < r; ++h) {
                const float * const sums = all_sums.data() + h * lanes;
                for (size_t t = 0; t < lanes; ++t) {
                    target[t] += gain[h] * sums[t];
                }
            }
            int32_t code[lanes];
            float error[lanes];
            for (size_t t = 0; t < lanes; ++t) {
                const float steps = (x[t] + target[t] - zero) / scale;
                const float low = steps > 0.0f ? steps : 0.0f;
                const float bounded = low < top ? low : top;
                const float whole = (bounded + 12582912.0f) - 12582912.0f;
                code[t] = static_cast<int32_t>(whole);
                error[t] = x[t] - (zero + step * whole);
            }
            for (size_t h = 0; h < r; ++h) {
                float * const sums = all_sums.data() + h * lanes;
                for (size_t t = 0; t < lanes; ++t) {
                    sums[t] += weight[h] * error[t];
                }
            }
            for (size_t t = 0; t < n_here; ++t) {
                codes_[(row + t) * d_ + c] = static_cast<uint8_t>(code[t]);
            }
        }
    }
}

void chunk_sealer::pack_classes(const kv_block_header & h, const key_classes & classes, uint8_t * block) const {
    uint8_t * brick = block + kv_map(h).codes;
    uint8_t u[64];
    for (size_t first = 0; first < n_; first += 16) {
        const size_t n_here = std::min<size_t>(16, n_ - first);
        std::memset(u, 0, sizeof(u));
        for (size_t quad = 0; quad < classes.widths.size(); ++quad) {
            const int32_t width = classes.widths[quad];
            if (width == 0) {
                break;  // the others have none either
            }
            const uint16_t * const order = classes.order.data() + 4 * quad;
            for (size_t t = 0; t < n_here; ++t) {
                const uint8_t * const row = codes_.data() + (first + t) * d_;
                for (size_t i = 0; i < 4; ++i) {
                    u[4 * t + i] = row[order[i]];
                }
            }
            pack_brick(u, width, brick);
            brick += 8 * width;
        }
    }
}

}  // namespace livekv
