// Blocks of kvstream (kv_block.h, version 3): sealed fast, they hold the codes and levels of the scalar reference.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "check.h"
#include "kernels/seal_stream.h"
#include "kv/f16.h"
#include "kv/kv_check.h"
#include "kv/kv_pack.h"
#include "random_rows.h"

using namespace livekv;

namespace {

struct sealed_block {
    kv_block_header header;
    std::vector<uint8_t> bytes;
    int64_t n_saturated = 0;
};

int32_t sum_of(const std::vector<uint8_t> & widths) {
    int32_t sum = 0;
    for (const uint8_t width : widths) {
        sum += width;
    }
    return sum;
}

// more: quads of high width beside those that need it.
sealed_block seal(const stream_method & m, const stream_units & units, const std::vector<float> & chunk, int64_t d,
                  int64_t n_apart, int32_t more = 0) {
    std::vector<uint8_t> widths = stream_widths(m, units, d);
    const int32_t narrow =
        static_cast<int32_t>(std::count_if(widths.begin(), widths.end(), [&](uint8_t w) { return w < m.high_bits; }));
    const int32_t sum = sum_of(widths) + std::min(more, narrow) * (m.high_bits - m.bits);
    widen(m, sum, widths);
    sealed_block out;
    out.header = kv_channel_header(kv_side::key, static_cast<int32_t>(chunk.size()) / static_cast<int32_t>(d),
                                   static_cast<int32_t>(d), sum);
    out.bytes.resize(kv_map(out.header).bytes);
    out.n_saturated = seal_stream(m, units, out.header, widths, chunk, n_apart, out.bytes.data());
    return out;
}

std::vector<float> burst(std::vector<float> chunk, int64_t d, std::mt19937 & rng) {
    const size_t c = rng() % static_cast<size_t>(d);
    for (size_t i = c; i < chunk.size(); i += static_cast<size_t>(d)) {
        chunk[i] = f16_to_f32(f32_to_f16_finite(9.0f * chunk[i]));
    }
    return chunk;
}

}  // namespace

TEST(a_block_holds_what_the_reference_says) {
    std::mt19937 rng(3);
    const int32_t widths[] = {2, 3, 4, 5, 8};
    for (int draw = 0; draw < 400; ++draw) {
        stream_method m;
        m.bits = widths[rng() % 5];
        m.high_bits = rng() % 4 == 0 ? 16 : std::max(m.bits, widths[rng() % 5]);
        m.scale_range = static_cast<stream_method::range>(rng() % 3);
        const int64_t d = std::vector<int64_t>{8, 40, 64, 128}[rng() % 4];
        m.groups = rng() % 3 == 0 ? static_cast<int32_t>(d / 8) : 0;
        const int64_t n = std::vector<int64_t>{1, 3, 16, 31, 33, 100}[rng() % 6];
        const int64_t n_apart = rng() % 2 ? std::min<int64_t>(4, n) : 0;
        const row_kind kind = all_row_kinds[rng() % std::size(all_row_kinds)];
        IN("draw ", draw, " bits=", m.bits, ",", m.high_bits, " d=", d, " n=", n, " apart=", n_apart,
           " groups=", m.groups, " ", name_of(kind));
        const stream_units before = stream_units_of(m, random_rows(kind, n, d, rng), d, {}, 0);
        const std::vector<float> chunk = burst(random_rows(kind, n, d, rng), d, rng);
        const stream_units units = stream_units_of(m, chunk, d, before.mu, 1);
        const streamed_chunk expected = stream_chunk(m, units, chunk, d, 0);
        const sealed_block block = seal(m, units, chunk, d, n_apart, static_cast<int32_t>(rng() % 3));
        CHECK(problem_of_block(block.bytes.data(), block.header).empty());
        const sealed_chunk read = read_block(block.bytes.data());
        const std::vector<float> x = unpack_block(block.bytes.data());
        int32_t wrong_codes = 0;
        int32_t wrong_levels = 0;
        for (size_t i = 0; i < chunk.size(); ++i) {
            const size_t c = i % static_cast<size_t>(d);
            if (static_cast<int64_t>(i / static_cast<size_t>(d)) < n_apart) {
                wrong_levels += x[i] != 0.0f;
                continue;
            }
            const bool kept = read.classes.widths[c / 4] == 16;
            wrong_codes += !kept && read.codes[i] != expected.codes[i];
            // Scales are f16 numbers: 2^-11 of a level off, or half the least one a code where they are subnormal.
            const float allowed = 0x1p-10f * std::fabs(expected.reconstruction[i]) +
                                  0x1p-25f * static_cast<float>(std::abs(expected.codes[i]));
            wrong_levels += !(std::fabs(x[i] - expected.reconstruction[i]) <= allowed);
        }
        CHECK(wrong_codes == 0);
        CHECK(wrong_levels == 0);
    }
}

TEST(entries_of_16_bits_are_kept_as_they_are) {
    std::mt19937 rng(5);
    stream_method m;
    m.high_bits = 16;
    const std::vector<float> first = random_rows(row_kind::normal, 64, 32, rng);
    std::vector<float> chunk = first;
    for (size_t i = 9; i < chunk.size(); i += 32) {
        chunk[i] = f16_to_f32(f32_to_f16(5.0f * chunk[i]));
    }
    const stream_units units = stream_units_of(m, chunk, 32, stream_units_of(m, first, 32, {}, 0).mu, 1);
    const sealed_block block = seal(m, units, chunk, 32, 0);
    const std::vector<float> x = unpack_block(block.bytes.data());
    int32_t n_equal = 0;
    for (size_t t = 0; t < 64; ++t) {
        n_equal += x[t * 32 + 9] == chunk[t * 32 + 9];
    }
    CHECK(units.flagged[9] == 1);
    CHECK(n_equal == 64);
    CHECK(block.header.width_sum == 7 * 4 + 16);
}

TEST(what_lies_beyond_a_range_is_counted) {
    stream_method m;
    m.scale_range = stream_method::range::ema;
    m.detects = false;
    const std::vector<float> mu(8, 1.0f);
    std::vector<float> chunk(8 * 20, 0.5f);
    chunk[8 * 3 + 2] = 3.0f;  // beyond 7.5 / 7 of mu = 0.9 + 0.1 * 3
    const stream_units units = stream_units_of(m, chunk, 8, mu, 1);
    CHECK(seal(m, units, chunk, 8, 0).n_saturated == 1);
    CHECK(seal(m, units, chunk, 8, 4).n_saturated == 0);
}

TEST(a_damaged_block_is_told) {
    std::mt19937 rng(8);
    stream_method m;
    m.high_bits = 16;
    const std::vector<float> chunk = random_rows(row_kind::normal, 20, 16, rng);
    const stream_units units = stream_units_of(m, chunk, 16, std::vector<float>(16, 0.01f), 1);
    const sealed_block whole = seal(m, units, chunk, 16, 0);
    CHECK(whole.header.width_sum == 4 * 16);
    CHECK(problem_of_block(whole.bytes.data(), whole.header).empty());
    const kv_block_map map = kv_map(whole.header);
    const auto damaged = [&](size_t at, uint8_t to) {
        std::vector<uint8_t> bytes = whole.bytes;
        bytes.at(at) = to;
        return !problem_of_block(bytes.data(), whole.header).empty();
    };
    CHECK(damaged(map.widths, 8));
    CHECK(damaged(map.widths, 15));
    CHECK(damaged(map.scales + 1, 0x7c));           // an infinite scale
    CHECK(damaged(map.codes + 1, 0x7e));            // an entry that is not a number
    CHECK(damaged(map.codes + 4 * 128 + 1, 0x7e));  // of the second row of bricks
    CHECK(damaged(0, 21));
}

TEST(a_channel_heavy_all_along_is_never_flagged) {
    std::mt19937 rng(6);
    stream_method m;
    std::vector<float> mu;
    for (int64_t t = 0; t < 50; ++t) {
        std::vector<float> chunk = random_rows(row_kind::normal, 64, 16, rng);
        for (size_t i = 3; i < chunk.size(); i += 16) {
            chunk[i] *= 100.0f;
        }
        const stream_units units = stream_units_of(m, chunk, 16, mu, t);
        CHECK(std::count(units.flagged.begin(), units.flagged.end(), 1) == 0);
        mu = units.mu;
    }
}

TEST_MAIN
