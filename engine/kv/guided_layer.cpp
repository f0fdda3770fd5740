#include "kv/guided_layer.h"

#include <algorithm>
#include <cmath>

#include "error.h"

namespace livekv {

namespace {

// x: [H, n, d]. Codes of the tokens that have one, each with a minimum of its own.
void code_by_token(std::span<const float> x, std::span<const uint8_t> bits, size_t d, guided_side & side) {
    side.low.resize(x.size() / d);
    side.scale.resize(x.size() / d);
    for (size_t row = 0; row < x.size() / d; ++row) {
        const int32_t b = bits[row % bits.size()];
        if (b == 0 || b == 16) {
            continue;
        }
        const guided_grid grid = guided_grid_of(x.data() + row * d, d, 1, b);
        side.low[row] = grid.low;
        side.scale[row] = grid.scale;
        for (size_t i = row * d; i < (row + 1) * d; ++i) {
            const int32_t code = grid.code(x[i], b);
            side.codes[i] = static_cast<uint8_t>(code);
            side.reconstruction[i] = grid.level(code);
        }
    }
}

// The same, with a minimum for each channel of the tokens of a level.
void code_by_channel(std::span<const float> x, std::span<const uint8_t> bits, size_t d, guided_side & side) {
    const size_t n = bits.size();
    const size_t n_heads = x.size() / (n * d);
    for (size_t i = 0; i < n; ++i) {
        if (bits[i] > 0 && bits[i] < 16) {
            side.level_low[bits[i]].resize(n_heads * d);
            side.level_scale[bits[i]].resize(n_heads * d);
        }
    }
    for (auto & [b, lows] : side.level_low) {
        for (size_t unit = 0; unit < lows.size(); ++unit) {
            const size_t first = unit / d * n * d + unit % d;
            std::vector<float> level;
            for (size_t t = 0; t < n; ++t) {
                if (bits[t] == b) {
                    level.push_back(x[first + t * d]);
                }
            }
            const guided_grid grid = guided_grid_of(level.data(), level.size(), 1, b);
            lows[unit] = grid.low;
            side.level_scale[b][unit] = grid.scale;
            for (size_t t = 0; t < n; ++t) {
                if (bits[t] == b) {
                    const int32_t code = grid.code(x[first + t * d], b);
                    side.codes[first + t * d] = static_cast<uint8_t>(code);
                    side.reconstruction[first + t * d] = grid.level(code);
                }
            }
        }
    }
}

guided_side code_side(const std::vector<float> & x, std::span<const uint8_t> bits, size_t d, bool by_token) {
    guided_side side;
    side.codes.resize(x.size());
    side.reconstruction.resize(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
        side.reconstruction[i] = bits[i / d % bits.size()] == 16 ? x[i] : 0.0f;
    }
    by_token ? code_by_token(x, bits, d, side) : code_by_channel(x, bits, d, side);
    return side;
}

}  // namespace

guided_layer::guided_layer(const guided_method & method, const guided_place & place, const shape & of)
    : method_(method),
      place_(place),
      of_(of),
      stored_keys_(static_cast<size_t>(of.n_head_kv)),
      exact_keys_(static_cast<size_t>(of.n_head_kv)) {}

template <typename F>
std::vector<double> guided_layer::weights(const float * q, const std::vector<const float *> & keys, F sees) const {
    std::vector<double> w(keys.size());
    double largest = -HUGE_VAL;
    for (size_t j = 0; j < keys.size(); ++j) {
        for (int64_t c = 0; c < of_.head_dim; ++c) {
            w[j] += static_cast<double>(q[c]) * keys[j][c];
        }
        w[j] /= std::sqrt(static_cast<double>(of_.head_dim));
        largest = sees(j) ? std::max(largest, w[j]) : largest;
    }
    double sum = 0.0;
    for (size_t j = 0; j < keys.size(); ++j) {
        w[j] = sees(j) ? std::exp(w[j] - largest) : 0.0;
        sum += w[j];
    }
    for (double & x : w) {
        x /= sum;
    }
    return w;
}

std::vector<float> guided_layer::given_to_guide(const guided_rows & rows) const {
    const size_t n = rows.positions.size();
    const size_t d = static_cast<size_t>(of_.head_dim);
    std::vector<int64_t> at = stored_positions_;
    at.insert(at.end(), rows.positions.begin(), rows.positions.end());
    std::vector<double> sums(n);
    for (int64_t h = 0; h < of_.n_head; ++h) {
        const size_t kv = static_cast<size_t>(h / (of_.n_head / of_.n_head_kv));
        std::vector<const float *> keys;
        for (size_t j = 0; j < stored_positions_.size(); ++j) {
            keys.push_back(stored_keys_[kv].data() + j * d);
        }
        for (size_t j = 0; j < n; ++j) {
            keys.push_back(rows.k.data() + (kv * n + j) * d);
        }
        for (size_t i = 0; i < n; ++i) {
            const std::vector<double> w = weights(rows.q.data() + (static_cast<size_t>(h) * n + i) * d, keys,
                                                  [&](size_t j) { return at[j] <= rows.positions[i]; });
            for (size_t j = 0; j < w.size(); ++j) {
                const int64_t after = at[j] - place_.guide_first;
                sums[i] += after >= 0 && after < place_.n_guide ? w[j] : 0.0;
            }
        }
    }
    std::vector<float> mean;
    for (const double sum : sums) {
        mean.push_back(static_cast<float>(sum / static_cast<double>(of_.n_head)));
    }
    return mean;
}

void guided_layer::take_from_guide(const guided_rows & rows) {
    const size_t n = rows.positions.size();
    const size_t d = static_cast<size_t>(of_.head_dim);
    for (size_t kv = 0; kv < exact_keys_.size(); ++kv) {
        const auto from = rows.k.begin() + static_cast<std::ptrdiff_t>(kv * n * d);
        exact_keys_[kv].insert(exact_keys_[kv].end(), from, from + static_cast<std::ptrdiff_t>(n * d));
    }
    all_positions_.insert(all_positions_.end(), rows.positions.begin(), rows.positions.end());
    taken_.resize(all_positions_.size());
    for (size_t i = 0; i < n; ++i) {
        if (rows.positions[i] < place_.guide_first) {
            continue;
        }
        for (int64_t h = 0; h < of_.n_head; ++h) {  // keys after it are none of its own
            const size_t kv = static_cast<size_t>(h / (of_.n_head / of_.n_head_kv));
            std::vector<const float *> keys;
            for (size_t j = 0; j < all_positions_.size(); ++j) {
                keys.push_back(exact_keys_[kv].data() + j * d);
            }
            const std::vector<double> w = weights(rows.q.data() + (static_cast<size_t>(h) * n + i) * d, keys,
                                                  [&](size_t j) { return all_positions_[j] <= rows.positions[i]; });
            for (size_t j = 0; j < w.size(); ++j) {
                taken_[j] += w[j] / static_cast<double>(of_.n_head);
            }
        }
    }
}

guided_chunk guided_layer::decide(const waiting & in, std::vector<float> attention) const {
    guided_chunk out;
    out.positions = in.positions;
    out.attention = std::move(attention);
    out.range = range_;
    out.scores = guided_scores_of(method_, place_, range_, out.positions, out.attention);
    guided_bits decided = guided_bits_of(method_, place_, out.scores, out.positions, in.n_chunk);
    out.kept = std::move(decided.kept);
    out.bits_assigned = decided.bits;
    std::vector<uint8_t> exact;
    for (const int64_t position : out.positions) {
        exact.push_back(position < method_.n_exact());
    }
    join_small_levels(method_, exact, decided.bits);
    out.bits = std::move(decided.bits);
    const size_t d = static_cast<size_t>(of_.head_dim);
    out.k = code_side(in.k, out.bits, d, method_.keys == guided_method::key_axis::token);
    out.v = code_side(in.v, out.bits, d, /*by_token=*/true);
    return out;
}

std::vector<guided_chunk> guided_layer::add(const guided_rows & rows, int64_t n_chunk) {
    const size_t n = rows.positions.size();
    const size_t d = static_cast<size_t>(of_.head_dim);
    LIVEKV_ASSERT(n > 0 && rows.q.size() == static_cast<size_t>(of_.n_head) * n * d);
    LIVEKV_ASSERT(rows.k.size() == static_cast<size_t>(of_.n_head_kv) * n * d && rows.v.size() == rows.k.size());
    waiting chunk{{rows.positions.begin(), rows.positions.end()},
                  {rows.k.begin(), rows.k.end()},
                  {rows.v.begin(), rows.v.end()},
                  n_chunk};
    std::vector<guided_chunk> decided;
    if (method_.guide == guided_method::guide_at::last) {
        take_from_guide(rows);
        waiting_.push_back(std::move(chunk));
        if (rows.positions.back() + 1 < place_.n_prompt) {
            return decided;
        }
        const std::vector<float> attention(taken_.begin(), taken_.end());
        range_.add(attention);
        size_t first = 0;
        for (const waiting & one : waiting_) {
            const auto from = attention.begin() + static_cast<std::ptrdiff_t>(first);
            first += one.positions.size();
            decided.push_back(decide(one, {from, attention.begin() + static_cast<std::ptrdiff_t>(first)}));
        }
        waiting_.clear();
        return decided;
    }
    std::vector<float> attention = given_to_guide(rows);
    range_.add(attention);
    decided.push_back(decide(chunk, std::move(attention)));
    const guided_chunk & sealed = decided.back();
    for (size_t i = 0; i < n; ++i) {
        if (sealed.bits[i] == 0) {
            continue;
        }
        stored_positions_.push_back(sealed.positions[i]);
        for (size_t kv = 0; kv < stored_keys_.size(); ++kv) {
            const auto from = sealed.k.reconstruction.begin() + static_cast<std::ptrdiff_t>((kv * n + i) * d);
            stored_keys_[kv].insert(stored_keys_[kv].end(), from, from + static_cast<std::ptrdiff_t>(d));
        }
    }
    return decided;
}

}  // namespace livekv
