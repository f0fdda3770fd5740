// Attention over kvstream's blocks and over keys before RoPE, every CPU level this machine runs, against the
// double-precision reference over the same blocks.

#include <cmath>
#include <random>

#include "attention_setups.h"
#include "check.h"
#include "random_rows.h"

using namespace livekv;

namespace {

constexpr double exact_nmse = 1e-6;  // nothing is rounded but sums in f32, and turns

}  // namespace

TEST(blocks_of_every_width_before_and_after_their_turn) {
    for (const int32_t bits : {2, 3, 4, 5, 8}) {
        for (const int32_t high : {bits, 8, 16}) {
            IN("bits=", bits, ",", high);
            for_each_turn([&](sequence_setup s) {
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
            });
        }
    }
}

TEST(grouped_queries_head_sizes_and_awkward_lengths) {
    for_awkward_shapes([](sequence_setup s, int32_t n) {
        const rope_tiles tiles(rope_of(rope_order::neox, s.head_dim));
        s.turns = &tiles.turns();
        s.stream.emplace();
        random_sequence seq(s);
        seq.add(n, true, true);
        seq.add(std::max(n, s.n_new), false, false);
        check_worst(seq, exact_nmse);
    });
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
