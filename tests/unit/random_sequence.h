#pragma once

// Random sequences stored in segments, sealed by the reference: what attention is tested over, on the CPU and on the
// device.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <random>
#include <vector>

#include "kernels/attention_ref.h"
#include "kernels/seal_stream.h"
#include "kv/f16.h"
#include "kv/guided_block.h"
#include "kv/kv_classes.h"
#include "kv/kv_kivi.h"
#include "kv/kv_pack.h"
#include "kvquant_rows.h"

struct sequence_setup {
    int32_t n_head = 4;
    int32_t n_head_kv = 2;
    int32_t head_dim = 64;
    int32_t n_new = 1;
    int64_t window = 0;    // tokens a query sees; 0: all
    int32_t rotation = 0;  // of keys; of values half as long
    livekv::kv_method method;
    std::optional<livekv::stream_method> stream;  // seals in the place of method
    int32_t level_bits = 0;                       // blocks are of a level of guided with so many bits; 0: they are not
    livekv::guided_method::key_axis level_axis = livekv::guided_method::key_axis::channel;
    int32_t kivi_bits = 0;                       // blocks are kivi's with so many bits; 0: they are not
    int32_t kvquant_bits = 0;                    // blocks are kvquant's with so many bits; 0: they are not
    const livekv::rope_turns * turns = nullptr;  // of keys that are kept before RoPE
    float k_size = 1.0f;                         // standard deviation of keys
    float q_size = 1.0f;
    int32_t zero_channel = -1;    // all zeros in keys and values
    int32_t heavy_channel = -1;   // 30 times as large, with a mean
    int32_t offset_channels = 0;  // first ones of keys that are offset, in turns up and down
    float offset = 0.0f;
    bool every_width = false;       // keys in classes of 4.25 bits: codes at random, of each width there is
    std::vector<float> q_channels;  // what each channel of the queries is multiplied by; empty: 1
};

// Codes of each width beside each other, 8 bits too, which is in the format and never chosen: 4.25 bits on the average.
inline livekv::sealed_chunk chunk_of_every_width(int64_t n, int64_t head_dim, int64_t group, std::mt19937 & rng) {
    constexpr uint8_t widths[16] = {8, 8, 8, 6, 6, 5, 5, 4, 4, 4, 3, 3, 2, 2, 0, 0};
    const size_t d = static_cast<size_t>(head_dim);
    std::normal_distribution<float> normal;
    livekv::sealed_chunk keys;
    keys.n_tokens = n;
    keys.head_dim = head_dim;
    keys.group = group;
    for (size_t c = 0; c < d; ++c) {
        keys.classes.order.push_back(static_cast<uint16_t>(c));
    }
    std::shuffle(keys.classes.order.begin(), keys.classes.order.end(), rng);
    for (size_t quad = 0; quad < d / 4; ++quad) {
        keys.classes.widths.push_back(widths[quad * 16 / (d / 4)]);
    }
    std::vector<int32_t> top(d);
    for (size_t i = 0; i < d; ++i) {
        top[keys.classes.order[i]] = (1 << keys.classes.widths[i / 4]) - 1;
    }
    for (size_t i = 0; i < static_cast<size_t>((n + group - 1) / group) * d; ++i) {
        const float step = top[i % d] > 0 ? 4.0f / static_cast<float>(top[i % d]) : 0.0f;
        keys.scale.push_back(livekv::f16_to_f32(livekv::f32_to_f16(step)));
        keys.minimum.push_back(livekv::f16_to_f32(livekv::f32_to_f16(normal(rng) - 2.0f)));
    }
    for (size_t i = 0; i < static_cast<size_t>(n) * d; ++i) {
        keys.codes.push_back(static_cast<int16_t>(rng() % static_cast<uint32_t>(top[i % d] + 1)));
    }
    return keys;
}

// With the memory its segments point to. The last one added are the open tokens.
class random_sequence {
  public:
    explicit random_sequence(const sequence_setup & s) : s_(s) {}

    // n visible tokens of block_tokens (0: n) in blocks of the keys, values or both; what is not is rows.
    void add(int32_t n, bool k_blocks, bool v_blocks, int32_t n_skip = 0, int32_t block_tokens = 0) {
        block_tokens = block_tokens ? block_tokens : n;
        livekv::kv_segment segment;
        segment.n_tokens = n;
        segment.n_skip = n_skip;
        segment.first = n_visible_;
        n_visible_ += n;
        fill(true, k_blocks, block_tokens, n_skip, segment);
        fill(false, v_blocks, block_tokens, n_skip, segment);
        segments_.push_back(segment);
        n_stored_.push_back(block_tokens);
    }

    // out: as large as it must be, and not a number.
    livekv::attention_args args(std::vector<float> & out) {
        std::normal_distribution<float> normal;  // not of a size that may be 0, which the library does not take
        while (q_.size() < static_cast<size_t>(s_.n_new * s_.n_head * s_.head_dim)) {
            const size_t c = q_.size() % static_cast<size_t>(s_.head_dim);
            q_.push_back(normal(rng_) * s_.q_size * (s_.q_channels.empty() ? 1.0f : s_.q_channels[c]));
        }
        out.assign(q_.size(), NAN);
        livekv::attention_args a;
        a.q = q_.data();
        a.out = out.data();
        a.n_tokens = s_.n_new;
        a.n_head = s_.n_head;
        a.n_head_kv = s_.n_head_kv;
        a.head_dim = s_.head_dim;
        a.k_rotation = s_.rotation;
        a.v_rotation = s_.rotation / 2;
        a.turns = s_.turns;
        a.scale = 1.0f / std::sqrt(static_cast<float>(s_.head_dim));
        a.window = s_.window;
        a.segments = segments_.data();
        a.n_segments = static_cast<int64_t>(segments_.size());
        return a;
    }

    std::vector<float> reference() {
        std::vector<float> out;
        livekv::attention_reference(args(out));
        return out;
    }

    const sequence_setup & setup() const { return s_; }
    int32_t n_stored(size_t segment) const { return n_stored_[segment]; }

    // What blocks of segments to come are.
    void set_level(int32_t bits) { s_.level_bits = bits; }

  private:
    void fill(bool keys, bool blocks, int32_t n, int32_t n_sinks, livekv::kv_segment & segment) {
        std::normal_distribution<float> normal;
        const size_t d = static_cast<size_t>(s_.head_dim);
        std::vector<uint16_t> rows(static_cast<size_t>(n * s_.n_head_kv) * d);
        for (size_t i = 0; i < rows.size(); ++i) {
            const int32_t c = static_cast<int32_t>(i % d);
            const float away = keys && c < s_.offset_channels ? c % 2 ? -s_.offset : s_.offset : 0.0f;
            const float x = normal(rng_) * (keys ? s_.k_size : 1.0f) + away;
            rows[i] = livekv::f32_to_f16(c == s_.zero_channel ? 0.0f : c == s_.heavy_channel ? 20.0f + 10.0f * x : x);
        }
        if (!blocks) {
            memory_.emplace_back(rows.size() * 2);
            std::memcpy(memory_.back().data(), rows.data(), rows.size() * 2);
            (keys ? segment.k_rows : segment.v_rows) = reinterpret_cast<const uint16_t *>(memory_.back().data());
            return;
        }
        const livekv::kv_block_header h =
            livekv::block_header(s_.method, keys ? livekv::kv_side::key : livekv::kv_side::value, n, s_.head_dim);
        std::vector<uint8_t> all;
        for (int32_t head = 0; head < s_.n_head_kv; ++head) {
            std::vector<float> chunk;
            for (size_t t = 0; t < static_cast<size_t>(n); ++t) {
                for (size_t c = 0; c < d; ++c) {
                    chunk.push_back(livekv::f16_to_f32(
                        rows[(t * static_cast<size_t>(s_.n_head_kv) + static_cast<size_t>(head)) * d + c]));
                }
            }
            if (s_.stream) {
                add_streamed(keys ? livekv::kv_side::key : livekv::kv_side::value, chunk, n_sinks, all);
                continue;
            }
            if (s_.level_bits > 0) {
                const std::vector<uint8_t> block =
                    livekv::guided_block(livekv::guided_header(keys ? livekv::kv_side::key : livekv::kv_side::value,
                                                               s_.level_axis, n, s_.head_dim, s_.level_bits),
                                         chunk);
                all.insert(all.end(), block.begin(), block.end());
                continue;
            }
            if (s_.kivi_bits > 0) {
                const livekv::kv_side side = keys ? livekv::kv_side::key : livekv::kv_side::value;
                const livekv::kv_block_header of = livekv::kivi_header(side, n, s_.head_dim, s_.kivi_bits);
                const std::vector<uint8_t> block = livekv::kivi_block(of, chunk);
                all.insert(all.end(), block.begin(), block.end());
                continue;
            }
            if (s_.kvquant_bits > 0) {
                const livekv::kv_side side = keys ? livekv::kv_side::key : livekv::kv_side::value;
                const std::vector<uint8_t> block =
                    block_of_rows(side, s_.kvquant_bits, chunk, s_.head_dim, n_sinks, chunk.size() / 20 + d);
                all.insert(all.end(), block.begin(), block.end());
                continue;
            }
            livekv::key_statistics statistics(s_.method, s_.head_dim);
            livekv::observe_keys(s_.method, statistics, chunk, n_sinks);
            std::vector<float> q2(d, 1.0f);
            for (size_t c = 0; c < s_.q_channels.size(); ++c) {
                q2[c] = s_.q_channels[c] * s_.q_channels[c];
            }
            const std::vector<uint8_t> block = livekv::pack_block(
                h, !keys            ? livekv::seal_values(s_.method, chunk, s_.head_dim, n_sinks)
                   : s_.every_width ? chunk_of_every_width(n, s_.head_dim, h.group, rng_)
                   : s_.method.key_classes
                       ? livekv::seal_keys_by_class(s_.method, statistics, {q2, {}}, chunk, s_.head_dim, n_sinks)
                       : livekv::seal_keys(s_.method, statistics, chunk, s_.head_dim, n_sinks));
            all.insert(all.end(), block.begin(), block.end());
        }
        memory_.push_back(all);
        (keys ? segment.k_blocks : segment.v_blocks) = memory_.back().data();
        (keys ? segment.k_block_bytes : segment.v_block_bytes) = all.size() / static_cast<size_t>(s_.n_head_kv);
    }

    // Of a chunk after one of which every fifth channel was small, so that it is flagged now.
    void add_streamed(livekv::kv_side side, const std::vector<float> & chunk, int64_t n_apart,
                      std::vector<uint8_t> & to) {
        std::vector<float> before = livekv::stream_units_of(*s_.stream, chunk, s_.head_dim, {}, 0).mu;
        for (size_t i = 0; i < before.size(); i += 5) {
            before[i] *= 0.01f;
        }
        const livekv::stream_units units = livekv::stream_units_of(*s_.stream, chunk, s_.head_dim, before, 1);
        const std::vector<uint8_t> widths = livekv::stream_widths(*s_.stream, units, s_.head_dim);
        int32_t sum = 0;
        for (const uint8_t width : widths) {
            sum += width;
        }
        const livekv::kv_block_header h =
            livekv::kv_channel_header(side, static_cast<int32_t>(chunk.size()) / s_.head_dim, s_.head_dim, sum);
        std::vector<uint8_t> block(livekv::kv_map(h).bytes);
        livekv::seal_stream(*s_.stream, units, h, widths, chunk, n_apart, block.data());
        to.insert(to.end(), block.begin(), block.end());
    }

    sequence_setup s_;
    std::mt19937 rng_{11};
    int64_t n_visible_ = 0;  // of all segments
    std::vector<std::vector<uint8_t>> memory_;
    std::vector<livekv::kv_segment> segments_;
    std::vector<int32_t> n_stored_;  // tokens of each segment's blocks or rows
    std::vector<float> q_;           // [n_new, n_head, head_dim]
};

// Energy of the difference over the reference's; infinite when a number is not finite.
inline double nmse(const std::vector<float> & a, const std::vector<float> & reference) {
    double error = 0.0;
    double energy = 0.0;
    for (size_t i = 0; i < a.size(); ++i) {
        error += std::pow(static_cast<double>(a[i]) - reference[i], 2);
        energy += std::pow(static_cast<double>(reference[i]), 2);
    }
    return std::isfinite(error) ? error / energy : INFINITY;
}
