// Attention over blocks and rows, every CPU level this machine runs, against the double-precision reference over the
// same blocks; and the running softmax.

#include <cmath>
#include <cstring>
#include <random>

#include "check.h"
#include "error.h"
#include "kernels/attention_job.h"
#include "random_rows.h"
#include "random_sequence.h"

using namespace livekv;

namespace {

// Queries and softmax weights are rounded to 8 bits, which loses up to 1e-4 of the output's energy; where both keys and
// values are f16 rows nothing is rounded but sums in f32.
constexpr double rounded_nmse = 1e-4;
constexpr double exact_nmse = 1e-6;

std::vector<float> run(random_sequence & seq, const cpu_kernels & level, int32_t n_threads = 1) {
    std::vector<float> out;
    const attention_args args = seq.args(out);
    attention_job job(level, n_threads, args.head_dim);
    job.prepare({&args, 1});
    for (int32_t t = 0; t < n_threads; ++t) {
        job.run(t, args.q, args.out);
    }
    return out;
}

// The worst of all levels.
double worst_nmse(random_sequence & seq) {
    const std::vector<float> reference = seq.reference();
    double worst = 0.0;
    for (const cpu_kernels * level : cpu_levels()) {
        worst = std::max(worst, nmse(run(seq, *level), reference));
    }
    return worst;
}

#define CHECK_BELOW(value, limit)                                                                                   \
    do {                                                                                                            \
        const double v_ = (value);                                                                                  \
        if (!(v_ <= (limit)))                                                                                       \
            check::report(__FILE__, __LINE__, #value " is " + check::text(v_) + ", allowed " + check::text(limit)); \
    } while (0)

}  // namespace

TEST(rows_alone_are_exact) {
    for (const int32_t n : {1, 2, 31, 32, 33, 100, 515}) {
        IN("n=", n);
        sequence_setup s;
        random_sequence seq(s);
        seq.add(n, false, false);
        CHECK_BELOW(worst_nmse(seq), exact_nmse);
    }
}

TEST(blocks_of_every_width_and_awkward_length) {
    double worst = 0.0;
    for (const int32_t bits : {2, 3, 4, 5, 8}) {
        for (const bool zero_point : {false, true}) {
            for (const int32_t n : {1, 4, 15, 16, 17, 31, 32, 33, 63, 64, 65, 103, 512}) {
                IN("bits=", bits, " zero_point=", zero_point, " n=", n);
                sequence_setup s;
                s.n_head = 32;
                s.n_head_kv = 8;
                s.method.k_bits = s.method.v_bits = bits;
                s.method.scale_method = kv_method::scale::range;
                s.method.zero_point = zero_point;
                s.method.key_group = 64;
                random_sequence seq(s);
                seq.add(n, true, true);
                seq.add(3, false, false);
                const double e = worst_nmse(seq);
                CHECK_BELOW(e, bits == 8 ? exact_nmse : rounded_nmse);
                worst = std::max(worst, e);
            }
        }
    }
    std::printf("     worst NMSE %.2e\n", worst);
}

TEST(every_query_group_and_head_dim) {
    for (int32_t group = 1; group <= 8; ++group) {
        for (const int32_t head_dim : {8, 40, 64, 72, 128, 256, 264}) {
            IN("group=", group, " head_dim=", head_dim);
            sequence_setup s;
            s.n_head_kv = 8;
            s.n_head = 8 * group;
            s.head_dim = head_dim;
            s.method.outlier_ratio = 0.02;
            random_sequence seq(s);
            seq.add(96, true, true);
            seq.add(33, false, false);
            CHECK_BELOW(worst_nmse(seq), rounded_nmse);
        }
    }
}

TEST(many_queries_see_only_what_is_before_them) {
    for (const int32_t n_new : {2, 3, 16, 17, 64}) {
        for (const int32_t before : {0, 1, 30}) {
            IN("n_new=", n_new, " before=", before);
            sequence_setup s;
            s.n_new = n_new;
            random_sequence seq(s);
            seq.add(64, true, true);
            seq.add(before + n_new, false, false);
            CHECK_BELOW(worst_nmse(seq), rounded_nmse);
        }
    }
}

TEST(a_window_hides_what_is_too_far_back) {
    for (const int32_t n_new : {1, 2, 17, 64}) {
        for (const int64_t window : {1, 2, 31, 32, 33, 63, 64, 65, 100, 161, 162, 200, 400}) {
            for (const int32_t n_head : {4, 32}) {
                IN("n_new=", n_new, " window=", window, " n_head=", n_head);
                sequence_setup s;
                s.n_new = n_new;
                s.n_head = n_head;
                s.window = window;
                random_sequence seq(s);
                seq.add(96, true, true);
                seq.add(64, false, true);
                seq.add(2 + n_new, false, false);
                CHECK_BELOW(worst_nmse(seq), rounded_nmse);
            }
        }
    }
}

TEST(a_window_in_a_long_context_costs_what_it_sees) {
    sequence_setup s;
    s.n_head = s.n_head_kv = 1;
    random_sequence whole(s);
    s.window = 512;
    random_sequence seen(s);
    for (random_sequence * seq : {&whole, &seen}) {
        for (int32_t i = 0; i < 12; ++i) {
            seq->add(512, true, true);
        }
        seq->add(40, false, false);
    }
    CHECK_BELOW(worst_nmse(seen), rounded_nmse);
    std::vector<float> out;
    const attention_args args = seen.args(out);
    CHECK_EQ(args.first_seen(0), 12 * 512 + 40 - 512);
    CHECK(nmse(whole.reference(), seen.reference()) > 0.1);
}

TEST(sinks_warm_up_keys_and_shortened_blocks) {
    for (const int32_t n_new : {1, 5}) {
        IN("n_new=", n_new);
        sequence_setup s;
        s.n_new = n_new;
        random_sequence seq(s);
        seq.add(4, false, false);     // sinks
        seq.add(64, false, true, 4);  // warm-up: exact keys, sealed values, the sinks left out
        seq.add(64, true, true);
        seq.add(37, true, true, 0, 64);  // trimmed
        seq.add(40, true, false);
        seq.add(20, false, false);
        CHECK_BELOW(worst_nmse(seq), rounded_nmse);
    }
}

TEST(long_contexts_are_cut_into_spans_and_joined) {
    sequence_setup s;
    s.n_head = s.n_head_kv = 1;
    random_sequence seq(s);
    for (int32_t i = 0; i < 12; ++i) {
        seq.add(512, true, true);
    }
    seq.add(7, false, false);
    CHECK_BELOW(worst_nmse(seq), rounded_nmse);
    for (const cpu_kernels * level : cpu_levels()) {
        IN(level->name);
        CHECK(run(seq, *level, 1) == run(seq, *level, 4));
    }
}

TEST(rotated_storage_gives_the_same_attention) {
    for (const int32_t head_dim : {64, 96, 128}) {
        IN("head_dim=", head_dim);
        sequence_setup s;
        s.head_dim = head_dim;
        s.rotation = head_dim == 96 ? 32 : head_dim;
        random_sequence seq(s);
        seq.add(64, true, true);
        seq.add(9, false, false);
        CHECK_BELOW(worst_nmse(seq), rounded_nmse);
    }
}

TEST(extreme_values_stay_finite_and_close) {
    for (const float size : {1e-6f, 1e-3f, 30.0f}) {
        IN("size=", size);
        sequence_setup s;
        s.k_size = size;
        random_sequence seq(s);
        seq.add(64, true, true);
        seq.add(9, false, false);
        CHECK_BELOW(worst_nmse(seq),
                    size > 1.0f ? 1e-2 : rounded_nmse);  // huge scores: a rounding step is worth a whole nat
    }
    for (const float q_size : {0.0f, 1e-20f, 1e20f, 3e38f}) {
        IN("q_size=", q_size);
        sequence_setup s;
        s.q_size = q_size;
        random_sequence seq(s);
        seq.add(64, true, true);
        seq.add(9, false, false);
        for (const cpu_kernels * level : cpu_levels()) {
            IN(level->name);
            for (const float x : run(seq, *level)) {
                CHECK(std::isfinite(x));
            }
        }
    }
}

TEST(a_zero_channel_and_a_heavy_one) {
    for (const bool zero_point : {false, true}) {
        IN("zero_point=", zero_point);
        sequence_setup s;
        s.zero_channel = 5;
        s.heavy_channel = 9;
        s.q_size = 0.3f;
        s.method.scale_method = kv_method::scale::range;
        s.method.zero_point = zero_point;
        random_sequence seq(s);
        seq.add(128, true, true);
        seq.add(9, false, false);
        CHECK_BELOW(worst_nmse(seq), 1e-3);  // the heavy channel's step of 1/127 is felt by its 31 neighbours
    }
}

TEST_MAIN
