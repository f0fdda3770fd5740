#pragma once

// Sequences and sealed chunks for tests of the device's kernels, on the device or emulated: the same inputs.

#include <cmath>
#include <cstring>
#include <random>
#include <utility>

#include "check.h"
#include "kernels/attention_ref.h"
#include "kernels/cuda/kernels.h"
#include "kv/f16.h"
#include "kv/kv_pack.h"
#include "random_rows.h"

// Memory of the device that goes with its owner.
class device_buffer {
  public:
    explicit device_buffer(size_t bytes) : data_(livekv::device::allocate(bytes + 1)), bytes_(bytes) {}
    device_buffer(const void * from, size_t bytes) : device_buffer(bytes) {
        livekv::device::copy_to_device(data_, from, bytes, nullptr);
    }
    template <typename T>
    explicit device_buffer(const std::vector<T> & from) : device_buffer(from.data(), from.size() * sizeof(T)) {}
    device_buffer(device_buffer && other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
    ~device_buffer() {
        if (data_) {
            livekv::device::release(data_);
        }
    }

    template <typename T>
    T * as() const {
        return static_cast<T *>(data_);
    }
    template <typename T>
    std::vector<T> read() const {
        std::vector<T> x(bytes_ / sizeof(T));
        livekv::device::copy_to_host(x.data(), data_, bytes_, nullptr);
        return x;
    }

  private:
    void * data_;
    size_t bytes_;
};

struct sequence_setup {
    int32_t n_head = 4;
    int32_t n_head_kv = 2;
    int32_t head_dim = 64;
    int32_t n_new = 1;
    int32_t rotation = 0;  // of keys; of values half as long
    livekv::kv_method method;
    float k_size = 1.0f;  // standard deviation of keys
    float q_size = 1.0f;
};

// A random sequence in segments, sealed by the reference, on the host and on the device.
class device_sequence {
  public:
    explicit device_sequence(const sequence_setup & s) : s_(s) {}

    // n visible tokens of block_tokens (0: n) in blocks of the keys, values or both; what is not is rows. The last one
    // added are the open tokens.
    void add(int32_t n, bool k_blocks, bool v_blocks, int32_t n_skip = 0, int32_t block_tokens = 0) {
        block_tokens = block_tokens ? block_tokens : n;
        livekv::kv_segment segment;
        segment.n_tokens = n;
        segment.n_skip = n_skip;
        livekv::device_chunk chunk;
        chunk.n_tokens = n;
        chunk.n_skip = n_skip;
        chunk.k = fill(true, k_blocks, block_tokens, n_skip, segment);
        chunk.v = fill(false, v_blocks, block_tokens, n_skip, segment);
        segments_.push_back(segment);
        chunks_.push_back(chunk);
        is_sinks_.push_back(false);
    }
    void add_sinks(int32_t n) {
        add(n, false, false);
        is_sinks_.back() = true;
    }

    std::vector<float> reference() {
        make_queries();
        std::vector<float> out(q_.size(), NAN);
        livekv::attention_args a;
        a.q = q_.data();
        a.out = out.data();
        a.n_tokens = s_.n_new;
        a.n_head = s_.n_head;
        a.n_head_kv = s_.n_head_kv;
        a.head_dim = s_.head_dim;
        a.k_rotation = s_.rotation;
        a.v_rotation = s_.rotation / 2;
        a.scale = scale();
        a.segments = segments_.data();
        a.n_segments = static_cast<int64_t>(segments_.size());
        livekv::attention_reference(a);
        return out;
    }

    std::vector<float> run(livekv::device::attention_kernel kernel) {
        make_queries();
        livekv::device_attention a;
        std::vector<livekv::device_chunk> table;
        for (size_t i = 0; i < chunks_.size(); ++i) {
            livekv::device_chunk c = chunks_[i];
            if (i + 1 == chunks_.size()) {
                a.open = c;
            } else if (is_sinks_[i]) {
                a.sinks = c;
            } else {
                c.first_tile = a.n_chunk_tiles;
                a.n_chunk_tiles += livekv::kv_ceil_div(c.n_tokens, livekv::kv_tile_tokens);
                a.v_outliers = std::max<int32_t>(a.v_outliers, c.v.n_outliers);
                table.push_back(c);
            }
        }
        a.sinks.first_tile = a.sinks_tile();
        a.open.first_tile = a.open_tile();
        a.n_chunks = static_cast<int32_t>(table.size());
        a.tiles_per_chunk = table.empty() ? 1 : livekv::kv_ceil_div(table[0].k.n_stored, livekv::kv_tile_tokens);
        const device_buffer q(q_);
        const std::vector<float> nothing(q_.size(), NAN);
        const device_buffer out(nothing);
        const device_buffer rotated(q_.size() * sizeof(float));
        const device_buffer chunks(table);
        const device_buffer workspace(livekv::device::attention_floats(s_.n_new, s_.n_head, s_.n_head_kv, s_.head_dim) *
                                      sizeof(float));
        a.q = q.as<float>();
        a.out = out.as<float>();
        a.n_tokens = s_.n_new;
        a.n_head = s_.n_head;
        a.n_head_kv = s_.n_head_kv;
        a.head_dim = s_.head_dim;
        a.k_rotation = s_.rotation;
        a.v_rotation = s_.rotation / 2;
        a.scale = scale();
        a.chunks = chunks.as<livekv::device_chunk>();
        livekv::device::attend(a, s_.method.k_bits, s_.method.v_bits, workspace.as<float>(), rotated.as<float>(),
                               nullptr, kernel);
        return out.read<float>();
    }

  private:
    float scale() const { return 1.0f / std::sqrt(static_cast<float>(s_.head_dim)); }

    void make_queries() {
        std::normal_distribution<float> normal(0.0f, s_.q_size);
        while (q_.size() < static_cast<size_t>(s_.n_new * s_.n_head * s_.head_dim)) {
            q_.push_back(normal(rng_));
        }
    }

    livekv::device_side fill(bool keys, bool blocks, int32_t n, int32_t n_sinks, livekv::kv_segment & segment) {
        std::normal_distribution<float> normal(0.0f, keys ? s_.k_size : 1.0f);
        const size_t d = static_cast<size_t>(s_.head_dim);
        std::vector<uint16_t> rows(static_cast<size_t>(n * s_.n_head_kv) * d);
        for (uint16_t & x : rows) {
            x = livekv::f32_to_f16(normal(rng_));
        }
        livekv::device_side side;
        side.n_stored = static_cast<uint16_t>(n);
        if (!blocks) {
            memory_.emplace_back(rows.size() * 2);
            std::memcpy(memory_.back().data(), rows.data(), rows.size() * 2);
            (keys ? segment.k_rows : segment.v_rows) = reinterpret_cast<const uint16_t *>(memory_.back().data());
            on_device_.emplace_back(rows);
            side.data = on_device_.back().as<uint8_t>();
            return side;
        }
        std::vector<uint8_t> all;
        const livekv::kv_block_header h =
            livekv::block_header(s_.method, keys ? livekv::kv_side::key : livekv::kv_side::value, n, s_.head_dim);
        for (int32_t head = 0; head < s_.n_head_kv; ++head) {
            std::vector<float> chunk;
            for (size_t t = 0; t < static_cast<size_t>(n); ++t) {
                for (size_t c = 0; c < d; ++c) {
                    chunk.push_back(livekv::f16_to_f32(
                        rows[(t * static_cast<size_t>(s_.n_head_kv) + static_cast<size_t>(head)) * d + c]));
                }
            }
            livekv::key_statistics statistics(s_.method, s_.head_dim);
            livekv::observe_keys(s_.method, statistics, chunk, n_sinks);
            const std::vector<uint8_t> block =
                livekv::pack_block(h, keys ? livekv::seal_keys(s_.method, statistics, chunk, s_.head_dim, n_sinks)
                                           : livekv::seal_values(s_.method, chunk, s_.head_dim, n_sinks));
            all.insert(all.end(), block.begin(), block.end());
        }
        memory_.push_back(all);
        const size_t each = all.size() / static_cast<size_t>(s_.n_head_kv);
        (keys ? segment.k_blocks : segment.v_blocks) = memory_.back().data();
        (keys ? segment.k_block_bytes : segment.v_block_bytes) = each;
        on_device_.emplace_back(all);
        return livekv::side_of_blocks(on_device_.back().as<uint8_t>(), h);
    }

    sequence_setup s_;
    std::mt19937 rng_{11};
    std::vector<std::vector<uint8_t>> memory_;
    std::vector<device_buffer> on_device_;
    std::vector<livekv::kv_segment> segments_;
    std::vector<livekv::device_chunk> chunks_;
    std::vector<bool> is_sinks_;
    std::vector<float> q_;
};

inline double nmse(const std::vector<float> & a, const std::vector<float> & reference) {
    double error = 0.0;
    double energy = 0.0;
    for (size_t i = 0; i < a.size(); ++i) {
        error += std::pow(static_cast<double>(a[i]) - reference[i], 2);
        energy += std::pow(static_cast<double>(reference[i]), 2);
    }
    return std::isfinite(error) ? error / energy : INFINITY;
}
