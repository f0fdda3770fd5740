// Levels of policy guided: their blocks hold the codes of the scalar reference, attention over them on every CPU level
// this machine runs is that of the double-precision reference, and a token's weight on the guide is the softmax's.

#include <cmath>
#include <cstring>
#include <random>

#include "attention_setups.h"
#include "check.h"
#include "kernels/guide_weights.h"
#include "kv/kv_check.h"
#include "random_rows.h"

using namespace livekv;
using axis = guided_method::key_axis;

namespace {

constexpr double rounded_nmse = 1e-4;  // weights of values, and queries over keys with grids of channels: to 8 bits
constexpr int32_t all_bits[] = {2, 3, 4, 5, 8};

}  // namespace

TEST(a_block_holds_what_the_reference_says) {
    std::mt19937 rng(3);
    for (const row_kind kind : all_row_kinds) {
        for (const int32_t bits : all_bits) {
            for (const kv_side side : {kv_side::key, kv_side::value}) {
                for (const axis keys : {axis::channel, axis::token}) {
                    for (const int64_t n : {1, 15, 33, 70}) {
                        IN(name_of(kind), " bits=", bits, " side=", static_cast<int>(side),
                           " axis=", static_cast<int>(keys), " n=", n);
                        const size_t d = 40;
                        const std::vector<float> x = random_rows(kind, n, d, rng);
                        const kv_block_header h = guided_header(side, keys, n, d, bits);
                        const std::vector<uint8_t> block = guided_block(h, x);
                        CHECK(block.size() == kv_map(h).bytes);
                        CHECK(problem_of_block(block.data(), h).empty());
                        const sealed_chunk sealed = read_block(block.data());
                        const std::vector<float> stored = unpack_block(block.data());
                        const bool by_channel = side == kv_side::key && keys == axis::channel;
                        bool same = true;
                        bool near = true;
                        for (size_t i = 0; i < x.size(); ++i) {
                            const size_t first = by_channel ? i % d : i / d * d;
                            const guided_grid grid = guided_grid_of(x.data() + first, by_channel ? x.size() / d : d,
                                                                    by_channel ? d : 1, bits);
                            const int32_t code = grid.code(x[i], bits);
                            const float top = static_cast<float>((1 << bits) - 1);
                            same = same && sealed.codes[i] == code;
                            const float size = std::fabs(grid.low) + top * grid.scale;
                            near =
                                near && std::fabs(stored[i] - grid.level(code)) <= 1e-3f * size + 1e-7f * (top + 1.0f);
                        }
                        CHECK(same);
                        CHECK(near);
                    }
                }
            }
        }
    }
}

TEST(levels_beside_each_other_rows_and_what_a_trim_leaves) {
    for (const axis keys : {axis::channel, axis::token}) {
        for (const int32_t low : all_bits) {
            for (const int32_t n_new : {1, 5, 40}) {
                IN("axis=", static_cast<int>(keys), " low=", low, " new=", n_new);
                sequence_setup s;
                s.n_new = n_new;
                s.level_bits = 8;
                s.level_axis = keys;
                random_sequence seq(s);
                seq.add(4, false, false);
                seq.add(37, true, true);
                seq.set_level(4);
                seq.add(90, true, true);
                seq.set_level(low);
                seq.add(70, true, true, 0, 96);
                seq.add(1, true, true);
                seq.add(40, false, false);
                check_worst(seq, rounded_nmse);
            }
        }
    }
}

TEST(grouped_queries_head_sizes_and_awkward_lengths) {
    for (const axis keys : {axis::channel, axis::token}) {
        IN("axis=", static_cast<int>(keys));
        for_awkward_shapes([&](sequence_setup s, int32_t n) {
            s.level_bits = 3;
            s.level_axis = keys;
            random_sequence seq(s);
            seq.add(n, true, true);
            seq.set_level(5);
            seq.add(n, true, true);
            seq.add(std::max(n, s.n_new), false, false);
            check_worst(seq, rounded_nmse);
        });
    }
}

TEST(heavy_channels_and_channels_of_zeros_a_level) {
    for (const int32_t n_new : {1, 4}) {
        sequence_setup s;
        s.n_new = n_new;
        s.zero_channel = 7;
        s.heavy_channel = 12;
        s.level_bits = 4;
        s.level_axis = axis::token;
        random_sequence seq(s);
        seq.add(64, true, true);
        seq.add(20, false, false);
        check_worst(seq, 3e-4);  // the heavy channel makes a token's step large for all of its channels
    }
}

TEST(a_minimum_that_is_no_number_is_found) {
    std::mt19937 rng(5);
    const kv_block_header h = guided_header(kv_side::value, axis::channel, 20, 64, 4);
    std::vector<uint8_t> block = guided_block(h, random_rows(row_kind::normal, 20, 64, rng));
    const uint16_t not_a_number = 0x7e00;
    std::memcpy(block.data() + kv_map(h).minima + 2 * 19, &not_a_number, 2);
    CHECK(problem_of_block(block.data(), h) == "a minimum is not a number");
}

TEST(the_weight_on_the_guide_is_the_softmaxs) {
    for (const int32_t n_new : {1, 6, 40}) {
        for (const int32_t n_guide : {1, 30, 100}) {  // earlier tokens alone, and some of the new ones with them
            for (const cpu_kernels * level : cpu_levels()) {
                IN("new=", n_new, " guide=", n_guide, " level=", level->name);
                sequence_setup s;
                s.n_head_kv = 2;
                s.n_head = 6;
                s.n_new = n_new;
                random_sequence seq(s);
                seq.add(80, false, false);
                seq.add(std::max(n_new, 40), false, false);
                std::vector<float> out;
                attention_args args = seq.args(out);
                std::vector<float> log_sums(static_cast<size_t>(n_new * s.n_head), NAN);
                args.log_sums = log_sums.data();
                attention_job job(*level, 2, args.head_dim);
                job.prepare({&args, 1});
                job.run(1, args.q, args.out);
                job.run(0, args.q, args.out);

                const int64_t n = 80 + std::max(n_new, 40);
                const size_t d = static_cast<size_t>(s.head_dim);
                const auto key = [&](size_t head, size_t t, size_t c) {
                    const kv_segment & from = args.segments[t < 80 ? 0 : 1];
                    return f16_to_f32(from.k_rows[((t < 80 ? t : t - 80) * 2 + head) * d + c]);
                };
                guide_keys guide;
                for (int64_t t = 0; t < n_guide; ++t) {
                    guide.positions.push_back(t);
                }
                guide.k.resize(2 * d * guide.stride());
                for (size_t t = 0; t < static_cast<size_t>(n_guide); ++t) {
                    for (size_t i = 0; i < 2 * d; ++i) {
                        guide.k[i * guide.stride() + t] = key(i / d, t, i % d);
                    }
                }
                const guided_queries queries = {args.q, log_sums.data(), 6, 2, 64, args.scale};
                for (int64_t i = 0; i < n_new; ++i) {
                    double expected = 0.0;
                    for (size_t head = 0; head < 6; ++head) {
                        double all = 0.0;
                        double of_guide = 0.0;
                        for (size_t t = 0; t <= static_cast<size_t>(n - n_new + i); ++t) {
                            double score = 0.0;
                            for (size_t c = 0; c < d; ++c) {
                                score += static_cast<double>(args.q[(static_cast<size_t>(i) * 6 + head) * d + c]) *
                                         key(head / 3, t, c);
                            }
                            const double w = std::exp(score * args.scale);
                            all += w;
                            of_guide += t < static_cast<size_t>(n_guide) ? w : 0.0;
                        }
                        expected += of_guide / all / 6.0;
                    }
                    const guide_view view = view_of_guide(queries, i, n - n_new + i, guide);
                    CHECK(std::fabs(weight_on_guide(view) - expected) < 1e-5 * expected);
                    CHECK(std::fabs(level->weight_on_guide(view) - expected) < 1e-5 * expected);
                }
            }
        }
    }
}

TEST(every_level_sums_the_weights_of_the_reference) {
    std::mt19937 rng(11);
    std::normal_distribution<float> normal;
    for (const cpu_kernels * level : cpu_levels()) {
        for (const int64_t group : {1, 2, 3, 4, 5, 8}) {
            for (const int64_t d : {8, 64, 128, 256}) {
                for (const int64_t n : {1, 7, 16, 63, 64, 65, 128, 200}) {
                    IN("level=", level->name, " group=", group, " d=", d, " n=", n);
                    guide_keys guide;
                    for (int64_t t = 0; t < n; ++t) {
                        guide.positions.push_back(3 * t);  // a guide whose tokens were not all kept
                    }
                    guide.k.resize(static_cast<size_t>(2 * d) * guide.stride());
                    for (size_t i = 0; i < guide.k.size(); ++i) {
                        guide.k[i] = i % guide.stride() < static_cast<size_t>(n) ? normal(rng) : 0.0f;
                    }
                    std::vector<float> q(static_cast<size_t>(2 * group * d));
                    for (float & x : q) {
                        x = normal(rng);
                    }
                    const std::vector<float> log_sums(static_cast<size_t>(2 * group), 9.0f);
                    const float scale = 1.0f / std::sqrt(static_cast<float>(d));
                    const guided_queries queries = {q.data(), log_sums.data(), 2 * group, 2, d, scale};
                    for (const int64_t position : {int64_t(0), n, 3 * n}) {
                        const guide_view view = view_of_guide(queries, 0, position, guide);
                        const float expected = weight_on_guide(view);
                        CHECK(expected > 0.0f);
                        CHECK(std::fabs(level->weight_on_guide(view) - expected) < 2e-6f * expected);
                    }
                }
            }
        }
    }
}

TEST(weights_stay_weights_whatever_the_queries) {
    guide_keys guide;
    guide.positions = {0, 1};
    guide.k.resize(4 * guide.stride());
    for (const float log_sum : {0.0f, 1e30f, -1e30f, INFINITY, -INFINITY, NAN}) {
        for (const float last : {1e30f, NAN, -INFINITY, 3.0f}) {
            const float q[4] = {2.0f, 1.0f, last, 3.0f};
            for (const float k : {1e4f, -1e4f, 0.0f}) {
                for (size_t i = 0; i < 8; ++i) {
                    guide.k[i / 2 * guide.stride() + i % 2] = k;
                }
                const guide_view view = view_of_guide({q, &log_sum, 1, 1, 4, 1.0f}, 0, 1, guide);
                const float weight = weight_on_guide(view);
                CHECK(weight >= 0.0f && weight <= 1.0f);
                for (const cpu_kernels * level : cpu_levels()) {
                    IN("level=", level->name, " log_sum=", log_sum, " q=", last, " k=", k);
                    CHECK(std::fabs(level->weight_on_guide(view) - weight) < 1e-6f);
                }
            }
        }
    }
}

TEST_MAIN
