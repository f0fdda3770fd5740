// Blocks that hold a chunk's tokens by level (kv_block.h, version 5): what they stand for, that a layer's attention
// reads what a trim left of them, and that damage is found.

#include <cmath>
#include <memory>
#include <random>

#include "check.h"
#include "kernels/attention_job.h"
#include "kv/kv_check.h"
#include "kv/kv_pack.h"
#include "kv/level_block.h"
#include "random_rows.h"
#include "random_sequence.h"
#include "store/kv_layer.h"
#include "store/kv_report.h"

using namespace livekv;
using axis = guided_method::key_axis;

namespace {

constexpr size_t d = 64;

std::vector<uint8_t> bits_of(const std::vector<uint8_t> & levels, size_t n, std::mt19937 & rng) {
    std::vector<uint8_t> bits;
    for (size_t i = 0; i < n; ++i) {
        bits.push_back(levels[rng() % levels.size()]);
    }
    return bits;
}

std::vector<float> rows_of(size_t n, std::mt19937 & rng) {
    std::vector<float> x;
    for (size_t i = 0; i < n * d; ++i) {
        x.push_back(f16_to_f32(f32_to_f16_finite(random_value(row_kind::shifted, static_cast<int64_t>(i % d), rng))));
    }
    return x;
}

std::vector<uint8_t> seal(kv_side side, axis keys, const std::vector<uint8_t> & bits, const std::vector<float> & x) {
    return seal_levels(plan_levels(side, keys, bits, d), keys, x);
}

// One layer of two kv heads with one chunk of these bits, whose keys and values are x of each head.
struct layer_of_levels {
    kv_layer layer;
    std::vector<std::vector<float>> k;  // [n_head_kv] of [n, d], as stored
    std::vector<std::vector<float>> v;

    layer_of_levels(axis keys, const std::vector<uint8_t> & bits, std::mt19937 & rng) {
        layer.n_head_kv = 2;
        layer.head_dim = d;
        kv_chunk chunk;
        chunk.n_stored = chunk.n_tokens = static_cast<int32_t>(bits.size());
        chunk.k = side(kv_side::key, keys, bits, rng, k);
        chunk.v = side(kv_side::value, keys, bits, rng, v);
        layer.n_chunked = chunk.n_tokens;
        layer.chunks.push_back(std::move(chunk));
    }

    static kv_chunk_side side(kv_side of, axis keys, const std::vector<uint8_t> & bits, std::mt19937 & rng,
                              std::vector<std::vector<float>> & stored) {
        kv_chunk_side out;
        std::vector<uint8_t> all;
        for (int head = 0; head < 2; ++head) {
            const std::vector<uint8_t> block = seal(of, keys, bits, rows_of(bits.size(), rng));
            all.insert(all.end(), block.begin(), block.end());
            stored.push_back(unpack_block(block.data()));
        }
        out.header = plan_levels(of, keys, bits, d).header;
        out.bytes = std::make_shared<page>(host_memory(), all.size());
        std::ranges::copy(all, out.bytes->data());
        return out;
    }
};

// Attention of one query row of head 0 to the first n tokens that are stored, and to one open token, in double.
std::vector<float> expected(const layer_of_levels & of, const std::vector<uint8_t> & bits, size_t n, const float * q,
                            const std::vector<uint16_t> & open_k, const std::vector<uint16_t> & open_v) {
    double sum = 0.0;
    std::vector<double> out(d);
    const auto see = [&](auto key, auto value) {
        double score = 0.0;
        for (size_t c = 0; c < d; ++c) {
            score += static_cast<double>(q[c]) * key(c);
        }
        const double w = std::exp(score / std::sqrt(static_cast<double>(d)));
        sum += w;
        for (size_t c = 0; c < d; ++c) {
            out[c] += w * value(c);
        }
    };
    for (size_t t = 0; t < n; ++t) {
        if (bits[t] > 0) {
            see([&](size_t c) { return of.k[0][t * d + c]; }, [&](size_t c) { return of.v[0][t * d + c]; });
        }
    }
    see([&](size_t c) { return f16_to_f32(open_k[c]); }, [&](size_t c) { return f16_to_f32(open_v[c]); });
    std::vector<float> result;
    for (const double x : out) {
        result.push_back(static_cast<float>(x / sum));
    }
    return result;
}

}  // namespace

TEST(a_block_stands_for_its_levels_tokens) {
    std::mt19937 rng(1);
    for (const axis keys : {axis::channel, axis::token}) {
        for (const kv_side side : {kv_side::key, kv_side::value}) {
            for (const std::vector<uint8_t> & levels :
                 std::vector<std::vector<uint8_t>>{{8, 4, 2}, {16, 5, 3, 0}, {4}, {0, 2}, {0}}) {
                for (const size_t n : {1, 33, 200}) {
                    IN("axis=", static_cast<int>(keys), " side=", static_cast<int>(side), " levels=", levels.size(),
                       " n=", n);
                    const std::vector<uint8_t> bits = bits_of(levels, n, rng);
                    const std::vector<float> x = rows_of(n, rng);
                    const level_plan plan = plan_levels(side, keys, bits, d);
                    const std::vector<uint8_t> block = seal_levels(plan, keys, x);
                    CHECK(block.size() == kv_map(plan.header).bytes);
                    CHECK(problem_of_block(block.data(), plan.header).empty());
                    const std::vector<float> stored = unpack_block(block.data());
                    for (size_t t = 0; t < n; ++t) {
                        double worst = 0.0;
                        for (size_t c = 0; c < d; ++c) {
                            const float exact = bits[t] == 0 ? 0.0f : x[t * d + c];
                            worst = std::max(worst, static_cast<double>(std::fabs(stored[t * d + c] - exact)));
                        }
                        // Numbers lie within 40 of each other, and within 8 of those of their channel.
                        const double step = bits[t] == 0 || bits[t] == 16 ? 0.0 : 40.0 / ((1 << bits[t]) - 1);
                        CHECK(worst <= 0.51 * step + (step > 0.0 ? 0.05 : 0.0));
                    }
                }
            }
        }
    }
}

TEST(attention_reads_what_a_trim_left_of_each_level) {
    std::mt19937 rng(2);
    for (const axis keys : {axis::channel, axis::token}) {
        for (const std::vector<uint8_t> & levels : std::vector<std::vector<uint8_t>>{{8, 4, 2, 0}, {16, 3, 0}, {0}}) {
            const std::vector<uint8_t> bits = bits_of(levels, 150, rng);
            for (const int64_t n : {150, 149, 97, 1}) {
                for (const cpu_kernels * level : cpu_levels()) {
                    IN("axis=", static_cast<int>(keys), " first level=", levels[0], " n=", n, " ", level->name);
                    layer_of_levels of(keys, bits, rng);
                    of.layer.trim(n);
                    std::vector<kv_segment> segments;
                    of.layer.append_segments(segments);
                    std::vector<uint16_t> open_k;
                    std::vector<uint16_t> open_v;
                    for (const float x : rows_of(4, rng)) {
                        (open_k.size() < 2 * d ? open_k : open_v).push_back(f32_to_f16_finite(0.1f * x));
                    }
                    kv_segment open;
                    open.first = n;
                    open.n_tokens = 1;
                    open.k_rows = open_k.data();
                    open.v_rows = open_v.data();
                    segments.push_back(open);
                    std::vector<float> q;
                    for (const float x : rows_of(2, rng)) {
                        q.push_back(0.01f * x);
                    }
                    std::vector<float> out(q.size(), NAN);
                    attention_args args;
                    args.q = q.data();
                    args.out = out.data();
                    args.n_tokens = 1;
                    args.n_head = args.n_head_kv = 2;
                    args.head_dim = d;
                    args.scale = 1.0f / std::sqrt(static_cast<float>(d));
                    args.segments = segments.data();
                    args.n_segments = static_cast<int64_t>(segments.size());
                    attention_job job(*level, 1, d);
                    job.prepare({&args, 1});
                    job.run(0, args.q, args.out);
                    out.resize(d);
                    CHECK(nmse(out, expected(of, bits, static_cast<size_t>(n), q.data(), open_k, open_v)) <= 1e-4);
                }
            }
        }
    }
}

TEST(reported_codes_are_those_of_the_levels) {
    std::mt19937 rng(4);
    const std::vector<uint8_t> bits = bits_of({16, 5, 2, 0}, 120, rng);
    const layer_of_levels of(axis::channel, bits, rng);
    size_t n_bits = 0;
    for (const uint8_t b : bits) {
        n_bits += 2 * 2 * d * b;  // of keys and values, in two heads
    }
    kv_report report;
    add_layer(report, of.layer, /*bypass=*/false);
    CHECK_EQ(report.bytes.codes, n_bits / 8);
    CHECK_EQ(report.bytes.total(), of.layer.chunks[0].k.bytes->bytes() + of.layer.chunks[0].v.bytes->bytes());
}

TEST(reported_codes_are_those_of_channels_widths) {
    kv_layer layer;
    layer.n_head_kv = 2;
    layer.head_dim = d;
    kv_chunk chunk;
    chunk.n_stored = chunk.n_tokens = 32;
    for (const kv_side side : {kv_side::key, kv_side::value}) {
        kv_chunk_side & of = side == kv_side::key ? chunk.k : chunk.v;
        of.header = kv_channel_header(side, 32, d, d / 4 * 5);
        of.bytes = std::make_shared<page>(host_memory(), 2 * kv_map(*of.header).bytes);
    }
    layer.chunks.push_back(chunk);
    kv_report report;
    add_layer(report, layer, /*bypass=*/false);
    CHECK_EQ(report.bytes.codes, 2 * 2 * 32 * d * 5 / 8);
    CHECK_EQ(report.bytes.total(), chunk.k.bytes->bytes() + chunk.v.bytes->bytes());
}

TEST(damage_before_the_codes_is_found) {
    std::mt19937 rng(3);
    for (const kv_side side : {kv_side::key, kv_side::value}) {
        const std::vector<uint8_t> bits = bits_of({8, 4, 2, 0}, 77, rng);
        const level_plan plan = plan_levels(side, axis::channel, bits, d);
        const std::vector<uint8_t> block = seal_levels(plan, axis::channel, rows_of(77, rng));
        for (size_t i = 0; i < kv_map(plan.header).centres; ++i) {
            for (const uint8_t by : {uint8_t{1}, uint8_t{0x80}, static_cast<uint8_t>(rng() % 255 + 1)}) {
                IN("side=", static_cast<int>(side), " byte=", i, " by=", static_cast<int>(by));
                std::vector<uint8_t> damaged = block;
                damaged[i] = static_cast<uint8_t>(damaged[i] ^ by);
                CHECK(!problem_of_block(damaged.data(), plan.header).empty());
            }
        }
        for (const size_t lines : {size_t{0}, size_t{1}, block.size() / 64 - 1}) {  // a header that says less
            std::vector<uint8_t> shorter = block;
            const kv_block_header h = kv_level_header(side, 77, d, lines * 64);
            std::memcpy(shorter.data(), &h, sizeof(h));
            shorter.resize(std::max(sizeof(h), lines * 64));
            CHECK(!problem_of_block(shorter.data(), h).empty());
        }
    }
}

TEST_MAIN
