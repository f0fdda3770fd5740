// Attention over kvstream's blocks and over keys before RoPE, every CPU level this machine runs, against the
// double-precision reference over the same blocks.

#include <cmath>
#include <random>

#include "check.h"
#include "kernels/attention_job.h"
#include "random_rows.h"
#include "random_sequence.h"
#include "worst_nmse.h"

using namespace livekv;

namespace {

constexpr double exact_nmse = 1e-6;  // nothing is rounded but sums in f32, and turns

rope_params rope_of(rope_order order, int64_t n_rot) {
    rope_params rope;
    rope.order = order;
    rope.n_rot = n_rot;
    return rope;
}

}  // namespace

TEST(blocks_of_every_width_before_and_after_their_turn) {
    std::mt19937 rng(1);
    const int32_t widths[] = {2, 3, 4, 5, 8};
    const rope_tiles normal(rope_of(rope_order::normal, 64));
    const rope_tiles neox(rope_of(rope_order::neox, 64));
    for (const int32_t bits : widths) {
        for (const int32_t high : {bits, 8, 16}) {
            for (const rope_turns * turns :
                 {static_cast<const rope_turns *>(nullptr), &normal.turns(), &neox.turns()}) {
                for (const int32_t n_new : {1, 5, 40}) {
                    IN("bits=", bits, ",", high, " turns=", turns == nullptr ? -1 : turns->neighbours, " new=", n_new);
                    sequence_setup s;
                    s.n_new = n_new;
                    s.turns = turns;
                    s.stream.emplace();
                    s.stream->bits = bits;
                    s.stream->high_bits = high;
                    random_sequence seq(s);
                    seq.add(4, false, false);
                    seq.add(96, true, true, 4);
                    seq.add(33, true, true);
                    seq.add(70, true, true, 0, 96);
                    seq.add(40, false, false);
                    check_worst(seq, exact_nmse);
                }
            }
        }
    }
}

TEST(grouped_queries_head_sizes_and_awkward_lengths) {
    for (const int32_t head_dim : {64, 128, 80}) {
        const rope_tiles tiles(rope_of(rope_order::neox, head_dim));
        for (const int32_t group : {1, 2, 3, 4, 7, 8}) {
            for (const int32_t n : {1, 15, 17, 31, 32, 47, 65}) {
                for (const int32_t n_new : {1, 3}) {
                    IN("head_dim=", head_dim, " group=", group, " n=", n, " new=", n_new);
                    sequence_setup s;
                    s.n_head_kv = 1;
                    s.n_head = group;
                    s.head_dim = head_dim;
                    s.n_new = n_new;
                    s.turns = &tiles.turns();
                    s.stream.emplace();
                    random_sequence seq(s);
                    seq.add(n, true, true);
                    seq.add(std::max(n, n_new), false, false);
                    check_worst(seq, exact_nmse);
                }
            }
        }
    }
}

TEST(turns_of_some_channels_with_a_magnitude_and_far_positions) {
    rope_params rope = rope_of(rope_order::normal, 48);
    rope.scaling = rope_scaling::yarn;
    rope.factor = 4.0f;
    rope.n_ctx_orig = 256;
    const rope_tiles tiles(rope);
    for (const int64_t window : {0, 150}) {
        for (const int32_t n_new : {1, 9}) {
            IN("window=", window, " new=", n_new);
            sequence_setup s;
            s.n_new = n_new;
            s.window = window;
            s.turns = &tiles.turns();
            s.stream.emplace();
            random_sequence seq(s);
            for (int i = 0; i < 9; ++i) {
                seq.add(160, true, true);  // beyond 32 * 32
            }
            seq.add(77, false, false);
            check_worst(seq, exact_nmse);
        }
    }
}

TEST(one_side_in_blocks_and_channels_of_zeros) {
    const rope_tiles tiles(rope_of(rope_order::normal, 64));
    for (const bool keys : {true, false}) {
        for (const int32_t n_new : {1, 4}) {
            sequence_setup s;
            s.n_new = n_new;
            s.turns = &tiles.turns();
            s.zero_channel = 7;
            s.heavy_channel = 12;
            s.stream.emplace();
            s.stream->groups = 8;
            random_sequence seq(s);
            seq.add(64, keys, !keys);
            seq.add(20, false, false);
            check_worst(seq, exact_nmse);
        }
    }
}

TEST(tables_turn_as_angles_do) {
    for (const int64_t position : {0LL, 1LL, 31LL, 32LL, 1023LL, 1024LL, 32768LL, 131071LL, 2000000000LL}) {
        const rope_params rope = rope_of(rope_order::neox, 64);
        const rope_tiles tiles(rope);
        std::vector<rope_angle> exact(32);
        rope_angles(rope, position, exact);
        const rope_turns & turns = tiles.turns();
        double worst = 0.0;
        for (int32_t i = 0; i < turns.n_pairs; ++i) {
            double cos = 1.0;
            double sin = 0.0;
            size_t digit = 0;
            for (int64_t left = position; left > 0; left /= rope_tile, ++digit) {
                const size_t at =
                    (digit * rope_tile + static_cast<size_t>(left % rope_tile)) * 32 + static_cast<size_t>(i);
                const double c = turns.digit_cos[at];
                const double s = turns.digit_sin[at];
                const double x = cos;
                cos = x * c - sin * s;
                sin = x * s + sin * c;
            }
            worst = std::max({worst, std::fabs(cos - exact[static_cast<size_t>(i)].cos),
                              std::fabs(sin - exact[static_cast<size_t>(i)].sin)});
        }
        IN("position ", position);
        CHECK(worst < 5e-7);
    }
}

TEST_MAIN
