// Blocks of policy kivi hold the codes of its scalar reference, and attention over them on every CPU level this machine
// runs is that of the double-precision reference.

#include <cmath>
#include <cstring>
#include <random>

#include "attention_setups.h"
#include "check.h"
#include "kernels/seal_kivi.h"
#include "kv/kv_check.h"
#include "kv/kv_kivi.h"
#include "kv/kv_pack.h"
#include "random_rows.h"

using namespace livekv;

namespace {

constexpr double rounded_nmse = 1e-4;  // queries and weights are rounded to 8 bits
constexpr int32_t all_bits[] = {2, 4};

}  // namespace

TEST(a_block_holds_what_the_reference_says) {
    std::mt19937 rng(3);
    for (const row_kind kind : all_row_kinds) {
        for (const int32_t bits : all_bits) {
            for (const kv_side side : {kv_side::key, kv_side::value}) {
                for (const int64_t n : {1, 15, 32, 70}) {
                    for (const int64_t d : {16, 40, 64}) {
                        IN(name_of(kind), " bits=", bits, " side=", static_cast<int>(side), " n=", n, " d=", d);
                        const std::vector<float> x = random_rows(kind, n, d, rng);
                        const kv_block_header h = kivi_header(side, n, d, bits);
                        const std::vector<uint8_t> block = kivi_block(h, x);
                        std::vector<uint8_t> fast(kv_map(h).bytes, 0xa5);
                        seal_kivi(h, x, fast.data());
                        CHECK(fast == block);
                        CHECK(problem_of_block(block.data(), h).empty());
                        const sealed_chunk sealed = read_block(block.data());
                        const kivi_tokens expected = kivi_quantize(side, bits, x, d);
                        CHECK(std::equal(expected.codes.begin(), expected.codes.end(), sealed.codes.begin(),
                                         sealed.codes.end()));
                        const std::vector<float> stored = unpack_block(block.data());
                        const float top = static_cast<float>((1 << bits) - 1);
                        const size_t n_groups = static_cast<size_t>((d + 31) / 32);
                        bool near = true;
                        for (size_t i = 0; i < x.size(); ++i) {
                            const size_t t = i / static_cast<size_t>(d);
                            const size_t c = i % static_cast<size_t>(d);
                            const size_t grid =
                                side == kv_side::key ? t / 32 * static_cast<size_t>(d) + c : t * n_groups + c / 32;
                            const float size = std::fabs(expected.low[grid]) + top * expected.scale[grid];
                            const float wrong = std::fabs(stored[i] - expected.reconstruction[i]);
                            near = near && wrong <= 1e-3f * size + 1e-7f * (top + 1.0f);
                        }
                        CHECK(near);
                    }
                }
            }
        }
    }
}

TEST(groups_of_values_have_grids_of_their_own) {
    std::vector<float> x(80, 0.0f);
    x[0] = 3.0f;
    x[40] = -6.0f;
    const kivi_tokens v = kivi_quantize(kv_side::value, 2, x, 80);
    CHECK((v.scale == std::vector<float>{1.0f, 2.0f, 0.0f}) && (v.low == std::vector<float>{0.0f, -6.0f, 0.0f}));
    CHECK(v.codes[0] == 3 && v.codes[1] == 0 && v.codes[33] == 3 && v.codes[40] == 0 && v.codes[79] == 0);
    CHECK(v.reconstruction == x);
}

TEST(what_the_publication_has_quantized) {
    const kivi_method m;
    CHECK(m.n_quantized(kv_side::key, 127) == 0 && m.n_quantized(kv_side::value, 127) == 0);
    CHECK(m.n_quantized(kv_side::key, 300) == 256 && m.n_quantized(kv_side::value, 300) == 172);
}

TEST(blocks_beside_rows_and_what_a_trim_leaves) {
    for (const int32_t bits : all_bits) {
        for (const int32_t n_new : {1, 5, 40}) {
            IN("bits=", bits, " new=", n_new);
            sequence_setup s;
            s.n_new = n_new;
            s.kivi_bits = bits;
            random_sequence seq(s);
            seq.add(128, true, true);
            seq.add(70, true, true, 0, 96);
            seq.add(128, true, false);  // whose values are still to be sealed
            seq.add(1, true, false, 0, 32);
            seq.add(40, false, false);
            check_worst(seq, rounded_nmse);
        }
    }
}

TEST(grouped_queries_head_sizes_and_awkward_lengths) {
    for (const int32_t bits : all_bits) {
        IN("bits=", bits);
        for_awkward_shapes([&](sequence_setup s, int32_t n) {
            s.n_head_kv = 4;  // the error of one row alone is a matter of chance
            s.n_head *= 4;
            s.kivi_bits = bits;
            random_sequence seq(s);
            seq.add(n, true, true);
            seq.add(n, true, false);
            seq.add(n, true, true);
            seq.add(2 * std::max(n, s.n_new), false, false);
            check_worst(seq, rounded_nmse);
        });
    }
}

TEST(long_contexts_in_spans_and_windows) {
    check_long_contexts(rounded_nmse, [](sequence_setup & s) { s.kivi_bits = 4; });
}

TEST(heavy_channels_and_channels_of_zeros) {
    for (const int32_t n_new : {1, 4, 40}) {
        for (const int32_t bits : all_bits) {
            sequence_setup s;
            s.n_new = n_new;
            s.zero_channel = 7;
            s.heavy_channel = 12;
            s.kivi_bits = bits;
            random_sequence seq(s);
            seq.add(64, true, true);
            seq.add(40, false, false);
            check_worst(seq, rounded_nmse);
        }
    }
}

TEST(a_minimum_that_is_no_number_is_found) {
    std::mt19937 rng(5);
    const kv_block_header h = kivi_header(kv_side::value, 20, 64, 4);
    std::vector<uint8_t> block = kivi_block(h, random_rows(row_kind::normal, 20, 64, rng));
    const uint16_t not_a_number = 0x7e00;
    std::memcpy(block.data() + kv_map(h).minima + 2 * 39, &not_a_number, 2);  // the last one's
    CHECK(problem_of_block(block.data(), h) == "a minimum is not a number");
}

TEST_MAIN
