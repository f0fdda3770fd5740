// Sealing: the fast sealer gives the reference's bytes, whatever the method, shape, input and CPU level; and how much
// of a chunk survives, pinned for each number of bits.

#include <cmath>
#include <cstring>

#include "check.h"
#include "kernels/seal.h"
#include "kv/kv_pack.h"
#include "random_rows.h"
#include "seal_configuration.h"

using namespace livekv;

namespace {

// One of three heads in f16 rows, whose neighbours' values would not go unnoticed.
std::vector<uint16_t> in_rows(const std::vector<float> & x, int64_t d) {
    const size_t width = static_cast<size_t>(d);
    std::vector<uint16_t> rows(3 * x.size(), f32_to_f16(12345.0f));
    for (size_t i = 0; i < x.size(); ++i) {
        rows[i / width * 3 * width + width + i % width] = f32_to_f16(x[i]);
    }
    return rows;
}

chunk_rows middle_head(const std::vector<uint16_t> & rows, int64_t d, int64_t n_sinks) {
    chunk_rows r;
    r.rows = rows.data() + d;
    r.stride = static_cast<size_t>(3 * d);
    r.n_tokens = static_cast<int64_t>(rows.size()) / (3 * d);
    r.head_dim = d;
    r.n_sinks = n_sinks;
    return r;
}

std::vector<uint8_t> sealed_bytes(const configuration & c, kv_side side, const auto & seal) {
    std::vector<uint8_t> block(kv_map(block_header(c.method, side, c.n, c.d)).bytes, 0xa5);
    seal(block.data());
    return block;
}

struct clipping {
    int n_bounded = 0;  // configurations in which the EMA bounded a channel's range
    int64_t n_saturated = 0;
};

// The fast sealer against the reference, keys and values; false when anything differs.
bool seals_alike(const configuration & c, std::mt19937 & rng, clipping & seen) {
    // Smaller chunks first: then the one at hand goes beyond N times what the statistics have seen.
    std::vector<std::vector<float>> chunks;
    for (int i = 0; i <= c.n_before; ++i) {
        chunks.push_back(random_rows(c.kind, c.n, c.d, rng));
        for (float & x : chunks.back()) {
            x = i < c.n_before ? f16_to_f32(f32_to_f16(0.1f * x)) : x;
        }
    }
    const std::vector<float> & k = chunks.back();
    const std::vector<float> v = random_rows(c.kind, c.n, c.d, rng);
    key_statistics expected(c.method, c.d);
    const auto sinks_of = [&](size_t i) { return i == 0 ? c.n_sinks : 0; };
    for (size_t i = 0; i < chunks.size(); ++i) {
        observe_keys(c.method, expected, chunks[i], sinks_of(i));
    }
    const int64_t n_sinks = sinks_of(chunks.size() - 1);
    const sealed_chunk k_sealed = seal_keys(c.method, expected, k, c.d, n_sinks);
    const sealed_chunk v_sealed = seal_values(c.method, v, c.d, n_sinks);
    const std::vector<uint8_t> k_block = pack_block(block_header(c.method, kv_side::key, c.n, c.d), k_sealed);
    const std::vector<uint8_t> v_block = pack_block(block_header(c.method, kv_side::value, c.n, c.d), v_sealed);
    seen.n_saturated += k_sealed.n_saturated + v_sealed.n_saturated;
    if (c.method.scale_method == kv_method::scale::ema_clipped && !c.method.zero_point) {
        const kv_method alone = [&] {
            kv_method m = c.method;
            m.scale_method = kv_method::scale::range;
            return m;
        }();
        seen.n_bounded += seal_keys(alone, expected, k, c.d, n_sinks).scale != k_sealed.scale;
    }
    for (const cpu_kernels * level : cpu_levels()) {
        chunk_sealer sealer(c.method, *level);
        key_statistics statistics(c.method, c.d);
        std::vector<uint16_t> rows;
        for (size_t i = 0; i < chunks.size(); ++i) {
            rows = in_rows(chunks[i], c.d);
            sealer.split_keys(middle_head(rows, c.d, sinks_of(i)));
            statistics.update(sealer.high(), sealer.low());
        }
        if (statistics.state() != expected.state()) {  // but for the sign of zeros
            return false;
        }
        if (sealed_bytes(c, kv_side::key, [&](uint8_t * b) { sealer.seal_keys(statistics, b); }) != k_block ||
            sealer.n_saturated() != k_sealed.n_saturated) {
            return false;
        }
        rows = in_rows(v, c.d);
        if (sealed_bytes(c, kv_side::value,
                         [&](uint8_t * b) { sealer.seal_values(middle_head(rows, c.d, n_sinks), b); }) != v_block ||
            sealer.n_saturated() != v_sealed.n_saturated) {
            return false;
        }
    }
    return true;
}

// Sealing of normal data, 512 tokens by 128 channels, as the format keeps it.
struct distortion {
    double snr_db = 0.0;
    int64_t n_flipped = 0;  // dense entries whose sign changed
    int64_t n_outliers = 0;
    double outlier_error = 0.0;  // largest, relative
};

distortion measure(const kv_method & method, kv_side side) {
    std::mt19937 rng(5);
    constexpr int64_t d = 128;
    const std::vector<float> x = random_rows(row_kind::normal, 512, d, rng);
    key_statistics statistics(method, d);
    observe_keys(method, statistics, x, 0);
    const sealed_chunk sealed =
        side == kv_side::key ? seal_keys(method, statistics, x, d, 0) : seal_values(method, x, d, 0);
    const std::vector<float> y = unpack_block(pack_block(block_header(method, side, 512, d), sealed).data());
    double signal = 0.0;
    double noise = 0.0;
    distortion result;
    for (size_t i = 0; i < x.size(); ++i) {
        signal += static_cast<double>(x[i]) * x[i];
        noise += (static_cast<double>(x[i]) - y[i]) * (static_cast<double>(x[i]) - y[i]);
        result.n_flipped += x[i] * y[i] < 0.0f;
    }
    for (const int32_t i : sealed.outlier_index) {
        const size_t at = static_cast<size_t>(i);
        result.outlier_error = std::max(result.outlier_error, std::fabs(static_cast<double>(y[at]) / x[at] - 1.0));
    }
    result.n_outliers = static_cast<int64_t>(sealed.outlier_index.size());
    result.snr_db = 10.0 * std::log10(signal / noise);
    return result;
}

}  // namespace

TEST(the_sealer_gives_the_references_bytes) {
    std::mt19937 rng(11);
    clipping seen;
    int n_different = 0;
#if defined(__SANITIZE_ADDRESS__)
    constexpr int n_draws = 400;
#else
    constexpr int n_draws = 1500;
#endif
    for (int i = 0; i < n_draws; ++i) {
        const configuration c = draw(rng);
        if (!seals_alike(c, rng, seen) && ++n_different <= 10) {
            check::report(__FILE__, __LINE__, c.text());
        }
    }
    CHECK_EQ(n_different, 0);
    std::printf("  on %zu CPU levels; the EMA bounded the range of %d configurations, %lld entries saturated\n",
                cpu_levels().size(), seen.n_bounded, static_cast<long long>(seen.n_saturated));
    CHECK(seen.n_bounded > 10);
    CHECK(seen.n_saturated > 1000);
}

TEST(a_sealer_used_before_seals_as_a_new_one) {
    std::mt19937 rng(12);
    const kv_method method;
    const cpu_kernels & level = *cpu_levels().front();
    chunk_sealer used(method, level);
    for (const int64_t n : {512, 5, 100, 33}) {
        const int64_t d = n == 5 ? 40 : 64;
        const std::vector<uint16_t> rows = in_rows(random_rows(row_kind::heavy_tailed, n, d, rng), d);
        std::vector<uint8_t> a(kv_map(block_header(method, kv_side::value, n, d)).bytes);
        std::vector<uint8_t> b(a.size());
        used.seal_values(middle_head(rows, d, 0), a.data());
        chunk_sealer(method, level).seal_values(middle_head(rows, d, 0), b.data());
        CHECK(a == b);
    }
}

TEST(what_survives_of_normal_data_is_pinned) {
    struct pin {
        int32_t bits;
        double k_db, v_db;            // symmetric, 1 % outliers, the chunk's own range: as measured
        double k_zero_db, v_zero_db;  // with a zero point
    };
    constexpr double band_db = 0.25;  // another draw of the data moves them by less than 0.1
    const pin pins[] = {
        {2, 2.97, 3.10, 6.42, 6.82},     {3, 12.30, 12.43, 13.75, 14.18}, {4, 19.70, 19.78, 20.38, 20.87},
        {5, 26.28, 26.41, 26.70, 27.14}, {8, 44.83, 44.96, 44.99, 45.47},
    };
    for (const pin & p : pins) {
        for (const bool zero_point : {false, true}) {
            for (const kv_side side : {kv_side::key, kv_side::value}) {
                kv_method m;
                m.scale_method = kv_method::scale::range;
                m.zero_point = zero_point;
                m.k_bits = m.v_bits = p.bits;
                const bool key = side == kv_side::key;
                const double expected = zero_point ? (key ? p.k_zero_db : p.v_zero_db) : (key ? p.k_db : p.v_db);
                const distortion r = measure(m, side);
                if (!(std::fabs(r.snr_db - expected) <= band_db)) {
                    check::report(__FILE__, __LINE__,
                                  std::to_string(p.bits) +
                                      (key ? " bits, keys, zero point " : " bits, values, zero point ") +
                                      std::to_string(zero_point) + ": " + std::to_string(r.snr_db) + " dB");
                }
                CHECK_EQ(r.n_flipped, 0);
                CHECK_EQ(r.n_outliers, key ? 5 * 128 : 512);
                CHECK(r.outlier_error < 1e-3);  // f16
            }
        }
    }
}

TEST(the_largest_entries_are_the_outliers) {
    std::mt19937 rng(13);
    kv_method m;
    m.outlier_ratio = 0.05;
    const std::vector<float> x = random_rows(row_kind::heavy_tailed, 100, 40, rng);
    for (const bool key : {true, false}) {
        key_statistics statistics(m, 40);
        observe_keys(m, statistics, x, 0);
        const sealed_chunk s = key ? seal_keys(m, statistics, x, 40, 0) : seal_values(m, x, 40, 0);
        std::vector<bool> apart(x.size());
        for (const int32_t i : s.outlier_index) {
            apart[static_cast<size_t>(i)] = true;
        }
        const size_t k = key ? 5 : 2;
        for (size_t line = 0; line < (key ? 40u : 100u); ++line) {
            size_t n = 0;
            float least_apart = INFINITY;
            float most_dense = 0.0f;
            for (size_t j = 0; j < (key ? 100u : 40u); ++j) {
                const size_t i = key ? j * 40 + line : line * 40 + j;
                n += apart[i];
                least_apart = apart[i] ? std::min(least_apart, std::fabs(x[i])) : least_apart;
                most_dense = apart[i] ? most_dense : std::max(most_dense, std::fabs(x[i]));
            }
            CHECK_EQ(n, k);
            CHECK(least_apart >= most_dense);
        }
    }
}

TEST_MAIN
