#pragma once

// What tests of the device's kernels share: memory, and the sequences of random_sequence.h, on the device or emulated.

#include <utility>

#include "check.h"
#include "kernels/cuda/kernels.h"
#include "random_rows.h"
#include "random_sequence.h"

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

// A random sequence on the device.
class device_sequence : public random_sequence {
  public:
    using random_sequence::random_sequence;

    void add_sinks(int32_t n) {
        sinks_ = n_added_;
        add(n, false, false);
    }
    void add(int32_t n, bool k_blocks, bool v_blocks, int32_t n_skip = 0, int32_t block_tokens = 0) {
        random_sequence::add(n, k_blocks, v_blocks, n_skip, block_tokens);
        ++n_added_;
    }

    std::vector<float> run(livekv::device::attention_kernel kernel) {
        std::vector<float> nothing;
        const livekv::attention_args host = args(nothing);
        std::vector<device_buffer> memory;
        livekv::device_attention a;
        std::vector<livekv::device_chunk> table;
        for (size_t i = 0; i < n_added_; ++i) {
            livekv::device_chunk c = upload(host.segments[i], n_stored(i), memory);
            if (i + 1 == n_added_) {
                a.open = c;
            } else if (i == sinks_) {
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
        const device_buffer q(host.q, nothing.size() * sizeof(float));
        const device_buffer out(nothing);
        const device_buffer rotated(nothing.size() * sizeof(float));
        const device_buffer chunks(table);
        const device_buffer workspace(
            livekv::device::attention_floats(host.n_tokens, host.n_head, host.n_head_kv, host.head_dim) *
            sizeof(float));
        a.q = q.as<float>();
        a.out = out.as<float>();
        a.n_tokens = host.n_tokens;
        a.n_head = host.n_head;
        a.n_head_kv = host.n_head_kv;
        a.head_dim = host.head_dim;
        a.k_rotation = host.k_rotation;
        a.v_rotation = host.v_rotation;
        a.scale = host.scale;
        a.chunks = chunks.as<livekv::device_chunk>();
        const livekv::kv_method & method = setup().method;
        livekv::device::attend(a, livekv::key_width(method), method.v_bits, workspace.as<float>(), rotated.as<float>(),
                               nullptr, kernel);
        return out.read<float>();
    }

  private:
    livekv::device_chunk upload(const livekv::kv_segment & s, int32_t n, std::vector<device_buffer> & memory) const {
        const size_t heads = static_cast<size_t>(setup().n_head_kv);
        const auto side = [&](livekv::kv_side which, const uint8_t * blocks, size_t each, const uint16_t * rows) {
            if (blocks) {
                memory.emplace_back(blocks, heads * each);
                return livekv::side_of_blocks(memory.back().as<uint8_t>(),
                                              livekv::block_header(setup().method, which, n, setup().head_dim));
            }
            memory.emplace_back(rows, 2 * static_cast<size_t>(n * setup().head_dim) * heads);
            livekv::device_side exact;
            exact.data = memory.back().as<uint8_t>();
            exact.n_stored = static_cast<uint16_t>(n);
            return exact;
        };
        livekv::device_chunk c;
        c.n_tokens = s.n_tokens;
        c.n_skip = s.n_skip;
        c.k = side(livekv::kv_side::key, s.k_blocks, s.k_block_bytes, s.k_rows);
        c.v = side(livekv::kv_side::value, s.v_blocks, s.v_block_bytes, s.v_rows);
        return c;
    }

    size_t n_added_ = 0;
    size_t sinks_ = SIZE_MAX;  // the segment that holds them
};
