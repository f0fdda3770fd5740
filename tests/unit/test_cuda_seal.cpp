// Sealing by the device's kernel gives the reference's bytes and statistics, whatever the method, shape and input; on
// the device, or emulated thread by thread where there is none.

#include <cstring>
#include <limits>

#include "cuda_sequences.h"
#include "kernels/cuda/brick.h"
#include "kernels/cuda/simt.h"
#include "kernels/pack_brick.h"
#include "seal_configuration.h"
#include "two_heads.h"

using namespace livekv;

namespace {

// The device's sealer, with the workspace and statistics it keeps from chunk to chunk.
class sealer {
  public:
    explicit sealer(const configuration & c)
        : c_(c),
          workspace_(std::vector<uint32_t>(
              device::seal_words(c.method, static_cast<int32_t>(c.n), n_heads, n_heads, static_cast<int32_t>(c.d)))),
          state_(n_heads * key_statistics::state_floats(c.method, c.d)) {}

    void seal(const std::vector<float> & k, const std::vector<float> & v, int64_t n_sinks, bool moves, bool stores) {
        const device_buffer rows_k(to_f16(k));
        const device_buffer rows_v(to_f16(v));
        device_buffer state(state_.size() * sizeof(float));
        const device_buffer old(state_);
        const size_t k_bytes = n_heads * kv_map(block_header(c_.method, kv_side::key, c_.n, c_.d)).bytes;
        const size_t v_bytes = n_heads * kv_map(block_header(c_.method, kv_side::value, c_.n, c_.d)).bytes;
        const device_buffer k_blocks(std::vector<uint8_t>(k_bytes, 0xa5));
        const device_buffer v_blocks(std::vector<uint8_t>(v_bytes, 0xa5));
        device_seal s;
        s.k = rows_k.as<uint16_t>();
        s.v = rows_v.as<uint16_t>();
        s.k_blocks = stores ? k_blocks.as<uint8_t>() : nullptr;
        s.v_blocks = stores ? v_blocks.as<uint8_t>() : nullptr;
        s.old_state = old.as<float>();
        s.new_state = moves ? state.as<float>() : nullptr;
        s.n_tokens = static_cast<int32_t>(c_.n);
        s.n_head_kv = n_heads;
        s.head_dim = static_cast<int32_t>(c_.d);
        s.n_sinks = static_cast<int32_t>(n_sinks);
        s.method = c_.method;
        device::seal(s, workspace_.as<uint32_t>(), nullptr);
        if (moves) {
            state_ = state.read<float>();
        }
        k_ = k_blocks.read<uint8_t>();
        v_ = v_blocks.read<uint8_t>();
    }

    const std::vector<float> & state() const { return state_; }
    const std::vector<uint8_t> & k() const { return k_; }
    const std::vector<uint8_t> & v() const { return v_; }

  private:
    configuration c_;
    device_buffer workspace_;
    std::vector<float> state_;
    std::vector<uint8_t> k_;
    std::vector<uint8_t> v_;
};

std::string difference(const configuration & c, std::mt19937 & rng) {
    sealer s(c);
    std::vector<key_statistics> statistics(n_heads, key_statistics(c.method, c.d));
    std::vector<float> k;
    std::vector<float> v;
    for (int i = 0; i <= c.n_before; ++i) {
        const bool last = i == c.n_before;
        const int64_t n_sinks = i == 0 ? c.n_sinks : 0;
        k = random_rows(c.kind, c.n * n_heads, c.d, rng);
        v = random_rows(c.kind, c.n * n_heads, c.d, rng);
        for (float & x : k) {  // smaller chunks first: then the last one goes beyond N times what was seen
            x = last ? x : f16_to_f32(f32_to_f16(0.1f * x));
        }
        s.seal(k, v, n_sinks, true, last);
        for (int64_t head = 0; head < n_heads; ++head) {
            observe_keys(c.method, statistics[static_cast<size_t>(head)], head_of(k, c.d, head), n_sinks);
        }
    }
    const int64_t n_sinks = c.n_before == 0 ? c.n_sinks : 0;
    std::vector<float> state;
    std::vector<uint8_t> k_blocks;
    std::vector<uint8_t> v_blocks;
    for (int64_t head = 0; head < n_heads; ++head) {
        const key_statistics & seen = statistics[static_cast<size_t>(head)];
        const std::vector<uint8_t> k_block = pack_block(block_header(c.method, kv_side::key, c.n, c.d),
                                                        seal_keys(c.method, seen, head_of(k, c.d, head), c.d, n_sinks));
        const std::vector<uint8_t> v_block = pack_block(block_header(c.method, kv_side::value, c.n, c.d),
                                                        seal_values(c.method, head_of(v, c.d, head), c.d, n_sinks));
        k_blocks.insert(k_blocks.end(), k_block.begin(), k_block.end());
        v_blocks.insert(v_blocks.end(), v_block.begin(), v_block.end());
        const std::vector<float> one = seen.state();
        state.insert(state.end(), one.begin(), one.end());
    }
    const auto first_difference = [](const auto & a, const auto & b) {
        size_t i = 0;
        while (i < a.size() && a[i] == b[i]) {
            ++i;
        }
        return std::to_string(i) + " of " + std::to_string(a.size());
    };
    if (s.state() != state) {  // but for the sign of zeros
        return "statistics " + first_difference(s.state(), state);
    }
    if (s.k() != k_blocks) {
        return "keys " + first_difference(s.k(), k_blocks);
    }
    if (s.v() != v_blocks) {
        return "values " + first_difference(s.v(), v_blocks);
    }
    // Sealed again by the statistics as they are: chunks whose keys were exact at first.
    s.seal(k, v, n_sinks, false, true);
    return s.k() == k_blocks ? "" : "keys sealed late " + first_difference(s.k(), k_blocks);
}

void check_against_reference(int n_draws, uint32_t seed) {
    constexpr int64_t longest = 256;  // emulated, 512 tokens take long
    std::mt19937 rng(seed);
    int n_different = 0;
    for (int i = 0; i < n_draws; ++i) {
        configuration c = draw(rng);
        c.n = std::min(c.n, longest);
        if (const std::string where = difference(c, rng); !where.empty() && ++n_different <= 10) {
            check::report(__FILE__, __LINE__, c.text() + ": " + where);
        }
    }
    CHECK_EQ(n_different, 0);
}

}  // namespace

TEST(words_of_a_brick_are_its_codes) {
    std::mt19937 rng(3);
    for (const int32_t bits : {2, 3, 4, 5, 6, 8}) {
        IN("bits=", bits);
        uint8_t u[64];  // [16, 4]
        for (uint8_t & code : u) {
            code = static_cast<uint8_t>(rng() & ((1u << bits) - 1u));
        }
        uint8_t brick[64];
        pack_brick(u, bits, brick);
        const auto row = [&](int32_t r) {
            uint32_t w;
            std::memcpy(&w, u + 4 * r, sizeof(w));
            return w;
        };
        for (int32_t r = 0; r < 16; ++r) {
            CHECK_EQ(brick_row(brick, bits, r), row(r));
        }
        for (int32_t w = 0; w < brick_words(bits); ++w) {
            uint32_t expected;
            std::memcpy(&expected, brick + 4 * w, sizeof(expected));
            CHECK_EQ(brick_word(bits, w, row), expected);
        }
    }
}

TEST(the_device_gives_the_references_bytes) {
    check_against_reference(LIVEKV_CUDA_DRAWS, 21);
}

TEST(whole_chunks_of_the_default_options) {
    std::mt19937 rng(22);
    for (const row_kind kind : {row_kind::normal, row_kind::heavy_tailed, row_kind::shifted}) {
        IN(name_of(kind));
        configuration c;
        c.method.scale_method = kv_method::scale::ema_clipped;
        c.method.key_group = 128;
        c.method.zero_point = true;
        c.method.outlier_ratio = 0.005;
        c.method.v_outlier_ratio = 0.0;
        c.n = 512;
        c.d = 128;
        c.n_sinks = 4;
        c.kind = kind;
        CHECK_EQ(difference(c, rng), "");
    }
}

TEST(long_chunks_take_narrower_slabs) {
    std::mt19937 rng(23);
    for (const int64_t n : {1600, 4096}) {
        IN("n=", n);
        configuration c;
        c.n = n;
        c.d = 24;
        c.n_sinks = 4;
        CHECK_EQ(difference(c, rng), "");
    }
}

#if !defined(__CUDACC__)
TEST(the_order_of_threads_does_not_matter) {
    for (const simt::emulated::order o : simt::emulated::all_orders) {
        IN("order ", static_cast<int>(o));
        simt::emulated::set_order(o);
        check_against_reference(LIVEKV_CUDA_DRAWS / 10, 24);
    }
    simt::emulated::set_order(simt::emulated::order::forward);
    simt::emulated::set_late_writes(true);
    check_against_reference(LIVEKV_CUDA_DRAWS / 10, 25);
    simt::emulated::set_late_writes(false);
}
#endif

TEST_MAIN
