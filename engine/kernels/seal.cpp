#include "kernels/seal.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "error.h"
#include "kernels/pack_brick.h"
#include "kv/f16.h"
#include "kv/kv_pack.h"
#include "unaligned.h"

namespace livekv {

namespace {

constexpr float infinite = std::numeric_limits<float>::infinity();

// To the nearest integer, ties to even, of |x| < 2^22: adding 1.5 * 2^23 leaves no room for a fraction.
inline float round_even(float x) {
    return (x + 12582912.0f) - 12582912.0f;
}

}  // namespace

std::vector<float> chunk_rows::to_f32(const cpu_kernels & kernels) const {
    std::vector<float> x(static_cast<size_t>(n_tokens * head_dim));
    for (size_t t = 0; t < static_cast<size_t>(n_tokens); ++t) {
        kernels.to_f32(rows + t * stride, x.data() + t * static_cast<size_t>(head_dim), static_cast<size_t>(head_dim));
    }
    return x;
}

void chunk_sealer::load(const chunk_rows & chunk) {
    chunk_ = chunk;
    n_ = static_cast<size_t>(chunk.n_tokens);
    d_ = static_cast<size_t>(chunk.head_dim);
    dense_ = chunk.to_f32(kernels_);
    apart_.assign(n_ * d_, 0);
    const size_t n_sinks = static_cast<size_t>(chunk.n_sinks) * d_;
    std::fill_n(dense_.begin(), n_sinks, 0.0f);
    std::fill_n(apart_.begin(), n_sinks, uint8_t{1});
    codes_.resize(n_ * d_);
    outliers_.clear();
    n_saturated_ = 0;
}

// The k largest magnitudes of each channel by insertion, all channels of a row at once; then, row by row, whatever is
// above the smallest of them, and of what equals it the first.
void chunk_sealer::take_key_outliers() {
    const size_t k = static_cast<size_t>(method_.k_outliers(chunk_.n_tokens));
    if (k == 0) {
        return;
    }
    top_.assign(k * d_, -1.0f);
    std::vector<float> x(d_);
    for (size_t t = 0; t < n_; ++t) {
        for (size_t c = 0; c < d_; ++c) {
            x[c] = std::fabs(dense_[t * d_ + c]);
        }
        for (size_t j = 0; j < k; ++j) {
            float * const top = top_.data() + j * d_;
            for (size_t c = 0; c < d_; ++c) {
                const float larger = top[c] > x[c] ? top[c] : x[c];
                x[c] = top[c] > x[c] ? x[c] : top[c];
                top[c] = larger;
            }
        }
    }
    const float * const least = top_.data() + (k - 1) * d_;
    std::vector<size_t> ties(d_, k);
    for (size_t j = 0; j < k; ++j) {
        for (size_t c = 0; c < d_; ++c) {
            ties[c] -= top_[j * d_ + c] > least[c];
        }
    }
    std::vector<uint8_t> hit(kv_align(d_, 8));
    for (size_t t = 0; t < n_; ++t) {
        for (size_t c = 0; c < d_; ++c) {
            hit[c] = std::fabs(dense_[t * d_ + c]) >= least[c];
        }
        for (size_t first = 0; first < d_; first += 8) {
            uint64_t any;
            std::memcpy(&any, hit.data() + first, sizeof(any));
            for (size_t c = first; any != 0 && c < first + 8 && c < d_; ++c) {
                const size_t at = t * d_ + c;
                if (!hit[c] || (std::fabs(dense_[at]) == least[c] && ties[c] == 0)) {
                    continue;
                }
                ties[c] -= std::fabs(dense_[at]) == least[c];
                outliers_.push_back({static_cast<uint32_t>(at), dense_[at]});
                dense_[at] = 0.0f;
                apart_[at] = 1;
            }
        }
    }
}

void chunk_sealer::take_value_outliers() {
    const size_t k = static_cast<size_t>(method_.v_outliers(chunk_.head_dim));
    if (k == 0) {
        return;
    }
    std::vector<uint32_t> best(k);
    for (size_t t = 0; t < n_; ++t) {
        const float * const row = dense_.data() + t * d_;
        size_t found = 0;
        for (size_t c = 0; c < d_; ++c) {
            const float x = std::fabs(row[c]);
            if (found == k && x <= std::fabs(row[best[k - 1]])) {
                continue;
            }
            size_t j = found < k ? found++ : k - 1;
            for (; j > 0 && std::fabs(row[best[j - 1]]) < x; --j) {
                best[j] = best[j - 1];
            }
            best[j] = static_cast<uint32_t>(c);
        }
        std::sort(best.begin(), best.end());
        for (const uint32_t c : best) {
            const size_t at = t * d_ + c;
            outliers_.push_back({static_cast<uint32_t>(at), dense_[at]});
            dense_[at] = 0.0f;
            apart_[at] = 1;
        }
    }
}

void chunk_sealer::split_keys(const chunk_rows & chunk) {
    load(chunk);
    take_key_outliers();
    high_.assign(dense_.begin(), dense_.begin() + static_cast<int64_t>(d_));
    low_ = high_;
    for (size_t t = 1; t < n_; ++t) {
        for (size_t c = 0; c < d_; ++c) {
            const float x = dense_[t * d_ + c];
            high_[c] = high_[c] > x ? high_[c] : x;
            low_[c] = low_[c] < x ? low_[c] : x;
        }
    }
}

// Each channel's range over rows first ... last - 1; with a zero point over the dense entries alone, else with 0.
void chunk_sealer::group_ranges(size_t first, size_t last) {
    const bool without_apart = method_.has_zero();
    range_high_.assign(d_, without_apart ? -infinite : 0.0f);
    range_low_.assign(d_, without_apart ? infinite : 0.0f);
    for (size_t t = first; t < last; ++t) {
        for (size_t c = 0; c < d_; ++c) {
            const float x = dense_[t * d_ + c];
            const bool skip = without_apart && apart_[t * d_ + c];
            const float for_high = skip ? -infinite : x;
            const float for_low = skip ? infinite : x;
            range_high_[c] = range_high_[c] > for_high ? range_high_[c] : for_high;
            range_low_[c] = range_low_[c] < for_low ? range_low_[c] : for_low;
        }
    }
    for (size_t c = 0; c < d_; ++c) {
        if (range_high_[c] < range_low_[c]) {  // everything is stored apart
            range_high_[c] = range_low_[c] = 0.0f;
        }
    }
}

void chunk_sealer::set_grid(size_t i, const kv_grid & g) {
    scale_[i] = g.scale;
    zero_[i] = static_cast<float>(g.zero);
    code_low_[i] = static_cast<float>(g.low);
    code_high_[i] = static_cast<float>(g.high);
}

// Codes of rows first ... last - 1, whose channels have the grids at hand.
void chunk_sealer::quantize_rows(size_t first, size_t last, const kv_block_header & h) {
    const float add = h.has_centres ? 0.0f : static_cast<float>(1 << (h.bits - 1));
    // Copies of the pointers: a byte that is stored might be one of a member's, and each would be read anew.
    const size_t d = d_;
    const float * const scale = scale_.data();
    const float * const zero = zero_.data();
    const float * const code_low = code_low_.data();
    const float * const code_high = code_high_.data();
    int32_t n_saturated = 0;
    for (size_t t = first; t < last; ++t) {
        const float * const row = dense_.data() + t * d;
        const uint8_t * const apart = apart_.data() + t * d;
        uint8_t * const codes = codes_.data() + t * d;
        for (size_t c = 0; c < d; ++c) {
            const float steps = row[c] / scale[c];
            const float low = code_low[c] - zero[c];
            const float high = code_high[c] - zero[c];
            const float beyond = steps + zero[c];
            n_saturated += ((beyond > code_high[c] + 0.5f) | (beyond < code_low[c] - 0.5f)) & (apart[c] ^ 1);
            const float at_least = steps > low ? steps : low;
            const float bounded = at_least < high ? at_least : high;
            codes[c] = static_cast<uint8_t>(static_cast<int32_t>(round_even(bounded) + zero[c] + add));
        }
    }
    n_saturated_ += n_saturated;
}

// A row's smallest and largest entry, from `start` down and -start up; without those stored apart or with them. Sixteen
// of each beside each other: a single one would wait for itself at every entry.
std::pair<float, float> chunk_sealer::row_range(size_t t, float start, bool without_apart) const {
    constexpr size_t lanes = 16;
    float low[lanes];
    float high[lanes];
    std::fill_n(low, lanes, start);
    std::fill_n(high, lanes, -start);
    const float * const row = dense_.data() + t * d_;
    const uint8_t * const apart = apart_.data() + t * d_;
    const auto take = [&](size_t first, size_t n) {
        for (size_t i = 0; i < n; ++i) {
            const float x = row[first + i];
            const bool skip = without_apart && apart[first + i];
            const float for_low = skip ? infinite : x;
            const float for_high = skip ? -infinite : x;
            low[i] = for_low < low[i] ? for_low : low[i];
            high[i] = for_high > high[i] ? for_high : high[i];
        }
    };
    size_t c = 0;
    for (; c + lanes <= d_; c += lanes) {
        take(c, lanes);
    }
    take(c, d_ - c);
    const std::pair found(*std::min_element(low, low + lanes), *std::max_element(high, high + lanes));
    return found.second < found.first ? std::pair(0.0f, 0.0f) : found;
}

// As quantize_rows, of one row and one grid.
void chunk_sealer::quantize_row(size_t t, const kv_grid & g, const kv_block_header & h) {
    const float zero = static_cast<float>(g.zero);
    const float low = static_cast<float>(g.low) - zero;
    const float high = static_cast<float>(g.high) - zero;
    const float too_low = static_cast<float>(g.low) - 0.5f;
    const float too_high = static_cast<float>(g.high) + 0.5f;
    const float add = zero + (h.has_centres ? 0.0f : static_cast<float>(1 << (h.bits - 1)));
    const float scale = g.scale;
    const float * const row = dense_.data() + t * d_;
    const uint8_t * const apart = apart_.data() + t * d_;
    uint8_t * const codes = codes_.data() + t * d_;
    const size_t d = d_;
    int32_t n_saturated = 0;
    for (size_t c = 0; c < d; ++c) {
        const float steps = row[c] / scale;
        const float beyond = steps + zero;
        n_saturated += ((beyond > too_high) | (beyond < too_low)) & (apart[c] ^ 1);
        const float bounded = steps < low ? low : steps > high ? high : steps;
        codes[c] = static_cast<uint8_t>(static_cast<int32_t>(round_even(bounded) + add));
    }
    n_saturated_ += n_saturated;
}

void chunk_sealer::seal_keys(const key_statistics & statistics, uint8_t * block) {
    const kv_block_header h = block_header(method_, kv_side::key, chunk_.n_tokens, chunk_.head_dim);
    const kv_block_map map = kv_map(h);
    std::memset(block, 0, map.bytes);
    store(block, h);
    for (std::vector<float> * v : {&scale_, &zero_, &code_low_, &code_high_}) {
        v->resize(d_);
    }
    const int32_t mid = 1 << (h.bits - 1);
    n_saturated_ = 0;
    for (size_t first = 0, group = 0; first < n_; first += h.group, ++group) {
        const size_t last = std::min(n_, first + h.group);
        if (method_.own_range()) {
            group_ranges(first, last);
        }
        for (size_t c = 0; c < d_; ++c) {
            kv_grid g;
            if (method_.own_range()) {
                const float bound =
                    method_.scale_method == kv_method::scale::ema_clipped ? statistics.bound()[c] : infinite;
                const float low = std::clamp(range_low_[c], -bound, bound);
                const float high = std::clamp(range_high_[c], -bound, bound);
                g = h.has_centres ? affine_grid(low, high, h.bits) : symmetric_grid(std::max(-low, high), h.bits);
            } else {
                g = h.has_centres ? minmax_grid(statistics.low()[c], statistics.high()[c], h.bits)
                                  : symmetric_grid(statistics.high()[c], h.bits);
            }
            set_grid(c, g);
            const size_t i = group * d_ + c;
            store(block + map.scales + 2 * i, f32_to_f16(g.scale));
            if (h.has_centres) {
                store(block + map.centres + i, static_cast<int8_t>(mid - g.zero));
            }
        }
        quantize_rows(first, last, h);
    }
    pack_codes(h, block);
    write_outliers(h, block);
}

void chunk_sealer::seal_values(const chunk_rows & chunk, uint8_t * block) {
    const kv_block_header h = block_header(method_, kv_side::value, chunk.n_tokens, chunk.head_dim);
    load(chunk);
    const kv_block_map map = kv_map(h);
    std::memset(block, 0, map.bytes);
    store(block, h);
    take_value_outliers();
    const int32_t mid = 1 << (h.bits - 1);
    const bool published = method_.scale_method == kv_method::scale::ema_minmax;
    const bool own = method_.own_range() && h.has_centres;
    for (size_t t = 0; t < n_; ++t) {
        const auto [low, high] = row_range(t, own || published ? infinite : 0.0f, h.has_centres && !published);
        const kv_grid g = published       ? minmax_grid(low, high, h.bits)
                          : h.has_centres ? affine_grid(low, high, h.bits)
                                          : symmetric_grid(std::max(-low, high), h.bits);
        store(block + map.scales + 2 * t, f32_to_f16(g.scale));
        if (h.has_centres) {
            store(block + map.centres + t, static_cast<int8_t>(mid - g.zero));
        }
        quantize_row(t, g, h);
    }
    pack_codes(h, block);
    write_outliers(h, block);
}

void chunk_sealer::pack_codes(const kv_block_header & h, uint8_t * block) const {
    const kv_block_map map = kv_map(h);
    uint8_t * brick = block + map.codes;
    uint8_t u[64];
    if (h.side == kv_side::key) {
        for (size_t first = 0; first < n_; first += 16) {
            const size_t n_here = std::min<size_t>(16, n_ - first);
            for (size_t c = 0; c < d_; c += 4, brick += map.brick_bytes) {
                std::memset(u, 0, sizeof(u));
                for (size_t t = 0; t < n_here; ++t) {
                    std::memcpy(u + 4 * t, codes_.data() + (first + t) * d_ + c, 4);
                }
                pack_brick(u, h.bits, brick);
            }
        }
        return;
    }
    for (size_t tile = 0; tile < n_; tile += kv_tile_tokens) {
        const size_t tile_end = std::min(n_, tile + kv_tile_tokens);
        for (size_t c = 0; c < d_; c += 16) {
            const size_t n_channels = std::min<size_t>(16, d_ - c);
            for (size_t first = tile; first < tile_end; first += 4, brick += map.brick_bytes) {
                std::memset(u, 0, sizeof(u));
                for (size_t t = first; t < std::min(tile_end, first + 4); ++t) {
                    for (size_t i = 0; i < n_channels; ++i) {
                        u[4 * i + (t - first)] = codes_[t * d_ + c + i];
                    }
                }
                pack_brick(u, h.bits, brick);
            }
        }
    }
}

void chunk_sealer::write_outliers(const kv_block_header & h, uint8_t * block) const {
    const kv_block_map map = kv_map(h);
    const int32_t mid = 1 << (h.bits - 1);
    size_t tile = 0;
    for (size_t i = 0; i < outliers_.size(); ++i) {
        const size_t token = outliers_[i].position / d_;
        const size_t channel = outliers_[i].position % d_;
        const size_t grid = h.side == kv_side::key ? token / h.group * d_ + channel : token;
        uint16_t scale;
        std::memcpy(&scale, block + map.scales + 2 * grid, sizeof(scale));
        const int32_t centre = h.has_centres ? static_cast<int8_t>(block[map.centres + grid]) : 0;
        const float level = f16_to_f32(scale) * static_cast<float>(codes_[outliers_[i].position] - mid + centre);
        store(block + map.outliers + 2 * i, f32_to_f16_finite(outliers_[i].value - level));
        uint8_t * const place = block + map.index + i * static_cast<size_t>(map.index_bytes);
        if (h.side == kv_side::key) {
            store(place, static_cast<uint16_t>(token % kv_tile_tokens << 11 | channel));
            for (; tile < token / kv_tile_tokens; ++tile) {
                store(block + map.tiles + 4 * (tile + 1), static_cast<uint32_t>(i));
            }
        } else if (map.index_bytes == 2) {
            store(place, static_cast<uint16_t>(channel));
        } else {
            store(place, static_cast<uint8_t>(channel));
        }
    }
    for (; h.side == kv_side::key && h.n_outliers > 0 && tile < static_cast<size_t>(map.n_tiles); ++tile) {
        store(block + map.tiles + 4 * (tile + 1), static_cast<uint32_t>(outliers_.size()));
    }
}

}  // namespace livekv
