// Keys in classes of width: who gets bits, that the fast sealer gives the reference's bytes, that attention reads what
// they stand for, and that a block nobody made is told apart.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>

#include "check.h"
#include "kernels/attention_job.h"
#include "kernels/seal.h"
#include "kv/kv_check.h"
#include "kv/kv_pack.h"
#include "kv/kv_state.h"
#include "policy/query_squares.h"
#include "random_rows.h"
#include "random_sequence.h"

using namespace livekv;

namespace {

kv_method class_method(int32_t bits, int32_t quarters = 0) {
    kv_method m;
    m.k_bits = bits;
    m.key_quarters = quarters;
    m.key_classes = true;
    m.scale_method = kv_method::scale::ema_clipped;
    m.zero_point = true;
    m.key_group = 128;
    m.outlier_ratio = 0.0;
    m.clip_factor = 4.0;
    return m;
}

std::vector<float> random_squares(int64_t d, std::mt19937 & rng) {
    std::normal_distribution<float> normal;
    std::vector<float> q2;
    for (int64_t c = 0; c < d; ++c) {
        q2.push_back(std::exp(3.0f * normal(rng)));
    }
    return q2;
}

// Of n heads, about half of what the squares are.
std::vector<float> random_means(const std::vector<float> & q2, size_t n, std::mt19937 & rng) {
    std::normal_distribution<float> normal;
    std::vector<float> means;
    for (size_t i = 0; i < n * q2.size(); ++i) {
        means.push_back(normal(rng) * std::sqrt(0.5f * q2[i % q2.size()]));
    }
    return means;
}

int32_t sum_of(const std::vector<uint8_t> & widths) {
    return std::accumulate(widths.begin(), widths.end(), 0);
}

// The sum that choose_classes makes small, of the widths it chose.
double cost_of(const key_classes & classes, const channel_costs & costs) {
    double sum = 0.0;
    for (size_t i = 0; i < classes.order.size(); ++i) {
        const size_t c = classes.order[i];
        const double top = (1 << classes.widths[i / 4]) - 1;
        const double uniform = top > 0 ? costs.span[c] / (12.0 * top * top) : INFINITY;
        sum += costs.q2[c] * std::min<double>(uniform, costs.variance[c]);
    }
    return sum;
}

std::vector<uint8_t> sealed_block(const kv_method & method, int64_t n, int64_t d, int64_t n_sinks, row_kind kind,
                                  std::mt19937 & rng) {
    const std::vector<float> x = random_rows(kind, n, d, rng);
    key_statistics statistics(method, d);
    observe_keys(method, statistics, x, n_sinks);
    return pack_block(block_header(method, kv_side::key, n, d),
                      seal_keys_by_class(method, statistics, {random_squares(d, rng), {}}, x, d, n_sinks));
}

std::vector<float> attended(random_sequence & seq, const cpu_kernels & level) {
    std::vector<float> out;
    const attention_args args = seq.args(out);
    attention_job job(level, 1, args.head_dim);
    job.prepare({&args, 1});
    job.run(0, args.q, args.out);
    return out;
}

}  // namespace

TEST(widths_meet_the_mean_exactly_and_never_rise) {
    std::mt19937 rng(1);
    for (const int64_t d : {8, 40, 64, 128, 264}) {
        for (int32_t quarters = 8; quarters <= 24; ++quarters) {
            for (const float equal : {0.0f, 1.0f}) {
                IN("d=", d, " quarters=", quarters, " equal=", equal);
                const std::vector<float> q2 =
                    equal ? std::vector<float>(static_cast<size_t>(d), 1.0f) : random_squares(d, rng);
                const std::vector<float> variance = random_squares(d, rng);
                std::vector<float> span = variance;
                for (float & x : span) {
                    x *= 36.0f;
                }
                const int32_t sum = (static_cast<int32_t>(d) / 4 * quarters + 2) / 4;
                const key_classes chosen = choose_classes({q2, variance, span}, sum);
                CHECK_EQ(sum_of(chosen.widths), sum);
                CHECK(std::is_sorted(chosen.widths.rbegin(), chosen.widths.rend()));
                std::vector<uint16_t> order = chosen.order;
                std::sort(order.begin(), order.end());
                for (size_t c = 0; c < order.size(); ++c) {
                    CHECK_EQ(order[c], c);
                }
            }
        }
    }
}

TEST(bits_go_where_they_take_most_off) {
    std::mt19937 rng(2);
    for (int trial = 0; trial < 20; ++trial) {
        IN("trial=", trial);
        const std::vector<float> q2 = random_squares(64, rng);
        const std::vector<float> variance = random_squares(64, rng);
        std::vector<float> span = variance;
        for (float & x : span) {
            x *= 36.0f;
        }
        const channel_costs costs = {q2, variance, span};
        const key_classes chosen = choose_classes(costs, 48);
        key_classes same = chosen;
        same.widths.assign(16, 3);
        const double best = cost_of(chosen, costs);
        CHECK(best < 0.5 * cost_of(same, costs));
        // No bits moved from one quad to another make it smaller: widths one step apart, both ways.
        for (size_t from = 0; from < 16; ++from) {
            for (size_t to = 0; to < 16; ++to) {
                key_classes moved = chosen;
                if (from == to || moved.widths[from] < 3 || moved.widths[to] < 2 || moved.widths[to] > 5) {
                    continue;
                }
                --moved.widths[from];
                ++moved.widths[to];
                CHECK(cost_of(moved, costs) >= best * (1.0 - 1e-6));
            }
        }
    }
}

TEST(costs_that_are_no_numbers_are_survived) {
    const std::vector<float> bad(64, NAN);
    const std::vector<float> infinite(64, INFINITY);
    const std::vector<float> zero(64, 0.0f);
    for (const auto * one : {&bad, &infinite, &zero}) {
        for (const int32_t sum : {32, 36, 48, 64, 96}) {
            CHECK_EQ(sum_of(choose_classes({*one, *one, *one}, sum).widths), sum);
        }
    }
}

TEST(the_fast_sealer_gives_the_references_bytes) {
    std::mt19937 rng(3);
    int n_narrow = 0;
    int64_t n_saturated = 0;
    for (int trial = 0; trial < 400; ++trial) {
        const auto one_of = [&](const auto & choices) { return choices[rng() % std::size(choices)]; };
        kv_method m = class_method(2 + static_cast<int32_t>(rng() % 4), static_cast<int32_t>(rng() % 4));
        m.key_group = one_of(std::array{0, 32, 128});
        m.clip_factor = one_of(std::array{1.0, 4.0});
        m.scale_method = rng() % 2 ? kv_method::scale::ema_clipped : kv_method::scale::range;
        const int64_t d = one_of(std::array{8, 40, 64, 128, 264});
        const int64_t n = one_of(std::array{1, 5, 31, 33, 100, 512});
        const int64_t n_sinks = rng() % 2 ? std::min<int64_t>(n, one_of(std::array{4, 40})) : 0;
        const row_kind kind = one_of(all_row_kinds);
        IN("d=", d, " n=", n, " sinks=", n_sinks, " kind=", name_of(kind), " bits=", m.k_bits, " group=", m.key_group);
        std::vector<float> before = random_rows(kind, n, d, rng);
        for (float & x : before) {
            x = f16_to_f32(f32_to_f16(0.2f * x));
        }
        const std::vector<float> x = random_rows(kind, n, d, rng);
        const std::vector<float> q2 = random_squares(d, rng);
        key_statistics statistics(m, d);
        observe_keys(m, statistics, before, 0);
        observe_keys(m, statistics, x, n_sinks);
        const std::vector<float> means = random_means(q2, rng() % 4, rng);
        const sealed_chunk expected = seal_keys_by_class(m, statistics, {q2, means}, x, d, n_sinks);
        const kv_block_header h = block_header(m, kv_side::key, n, d);
        const std::vector<uint8_t> bytes = pack_block(h, expected);
        n_narrow += expected.classes.widths.back() == 0;
        n_saturated += expected.n_saturated;
        CHECK_EQ(problem_of_block(bytes.data(), h), "");
        std::vector<uint16_t> rows;
        for (const float value : x) {
            rows.push_back(f32_to_f16(value));
        }
        for (const cpu_kernels * level : cpu_levels()) {
            chunk_sealer sealer(m, *level);
            sealer.split_keys({rows.data(), static_cast<size_t>(d), n, d, n_sinks});
            std::vector<uint8_t> fast(kv_map(h).bytes, 0xa5);
            sealer.seal_keys(statistics, {q2, means}, fast.data());
            CHECK(fast == bytes);
            CHECK_EQ(sealer.n_saturated(), expected.n_saturated);
        }
        const sealed_chunk again = read_block(bytes.data());
        CHECK(again.codes == expected.codes && again.scale == expected.scale && again.minimum == expected.minimum);
        CHECK(again.classes.order == expected.classes.order && again.classes.widths == expected.classes.widths);
    }
    CHECK(n_narrow > 20 && n_saturated > 100);
}

TEST(statistics_go_on_from_what_is_stored_as_if_nothing_had_been) {
    std::mt19937 rng(12);
    std::normal_distribution<float> normal;
    constexpr int64_t d = 32;
    for (const bool classes : {true, false}) {
        kv_method method = class_method(4);
        method.key_classes = classes;
        const bool is_f16 = state_is_f16(method);
        CHECK_EQ(is_f16, classes);
        key_statistics live(method, d);
        std::vector<uint8_t> page(2 * d * state_number_bytes(is_f16));
        const auto stored = [&](size_t i) { return state_number(page.data(), is_f16, i); };
        int64_t n_seen = 0;
        int n_between = 0;  // numbers that f16 does not hold
        for (int chunk = 0; chunk < 6; ++chunk) {
            IN("classes ", classes, " chunk ", chunk);
            key_statistics restored(method, d);
            std::vector<float> root(chunk > 0 ? d : 0);
            if (chunk > 0) {
                std::vector<float> state;
                for (size_t c = 0; c < d; ++c) {
                    state.push_back(stored(c));
                    root[c] = stored(d + c);
                }
                restored.set_state(state);
            }
            const std::vector<float> keys = random_rows(row_kind::heavy_tailed, 64, d, rng);
            live.update(keys);
            restored.update(keys);
            CHECK(live.state() == restored.state());
            CHECK(live.bound() == restored.bound());
            query_squares again(d, root, n_seen);
            for (int t = 0; t < 64; ++t, ++n_seen) {
                std::vector<float> q(d);
                std::generate(q.begin(), q.end(), [&] { return 0.3f * normal(rng); });
                again.add(q.data(), 1);
            }
            std::vector<float> numbers = live.state();
            numbers.resize(2 * d);
            again.root(std::span(numbers).last(d));
            for (size_t i = 0; i < numbers.size(); ++i) {
                put_state_number(page.data(), is_f16, i, numbers[i]);
                CHECK_EQ(stored(i), numbers[i]);
                n_between += f16_to_f32(f32_to_f16(numbers[i])) != numbers[i];
            }
        }
        CHECK_EQ(n_between > 0, !classes);
    }
}

TEST(an_offset_costs_nothing) {
    const kv_method m = class_method(4);
    double first = 0.0;
    for (const float offset : {0.0f, 60.0f, -300.0f, 1000.0f}) {
        std::mt19937 rng(4);
        std::normal_distribution<float> normal;
        std::vector<float> x(512 * 64);
        for (float & value : x) {  // steps of 1, which f16 has up to 2048
            value = offset + std::nearbyint(40.0f * normal(rng));
        }
        key_statistics statistics(m, 64);
        observe_keys(m, statistics, x, 0);
        const std::vector<float> q2(64, 1.0f);
        const std::vector<float> y = unpack_block(
            pack_block(block_header(m, kv_side::key, 512, 64), seal_keys_by_class(m, statistics, {q2, {}}, x, 64, 0))
                .data());
        double error = 0.0;
        for (size_t i = 0; i < x.size(); ++i) {
            error += std::pow(static_cast<double>(x[i]) - y[i], 2);
        }
        first = first == 0.0 ? error : first;
        IN("offset=", offset);
        CHECK(std::fabs(error / first - 1.0) < 0.02);
    }
}

TEST(attention_reads_what_the_block_stands_for) {
    double worst = 0.0;
    for (const int32_t head_dim : {8, 40, 64, 72, 128, 256, 264}) {
        for (const int32_t bits : {2, 3, 4, 5}) {
            for (const auto & [n_head, n_new] : {std::pair{2, 1}, {6, 1}, {14, 1}, {4, 17}}) {
                for (const int32_t n : {1, 31, 33, 130, 512}) {
                    IN("head_dim=", head_dim, " bits=", bits, " n_head=", n_head, " n_new=", n_new, " n=", n);
                    sequence_setup s;
                    s.head_dim = head_dim;
                    s.n_head = n_head;
                    s.n_new = n_new;
                    s.method = class_method(bits, n % 4);
                    s.heavy_channel = n % 2 ? 3 : -1;
                    for (int32_t c = 0; c < head_dim; ++c) {
                        s.q_channels.push_back(c == s.heavy_channel ? 0.03f
                                                                    : std::exp2(-0.2f * static_cast<float>(c % 37)));
                    }
                    random_sequence seq(s);
                    seq.add(n, true, true, n > 40 ? 4 : 0);
                    seq.add(64, true, false);
                    seq.add(3 + n_new, false, false);
                    const std::vector<float> reference = seq.reference();
                    for (const cpu_kernels * level : cpu_levels()) {
                        IN(level->name);
                        const double e = nmse(attended(seq, *level), reference);
                        CHECK(e < 1e-4);
                        worst = std::max(worst, e);
                    }
                }
            }
        }
    }
    std::printf("     worst NMSE %.2e\n", worst);
}

// Widths that are never chosen are in the format all the same: 8 bits, and each width beside each other.
TEST(attention_reads_every_width) {
    double worst = 0.0;
    for (const size_t d : {64, 72, 128, 256}) {
        for (const auto & [n_head, n_new] : {std::pair{2, 1}, {6, 1}, {14, 1}, {4, 17}}) {
            IN("head_dim=", d, " n_head=", n_head, " n_new=", n_new);
            std::mt19937 rng(6);
            std::normal_distribution<float> normal;
            constexpr int32_t n = 150;
            sealed_chunk keys;
            keys.n_tokens = n;
            keys.head_dim = static_cast<int64_t>(d);
            keys.group = 128;
            keys.classes.order.resize(d);
            std::iota(keys.classes.order.begin(), keys.classes.order.end(), uint16_t{0});
            std::shuffle(keys.classes.order.begin(), keys.classes.order.end(), rng);
            for (size_t quad = 0; quad < d / 4; ++quad) {
                keys.classes.widths.push_back(std::array<uint8_t, 7>{8, 6, 5, 4, 3, 2, 0}[quad * 7 / (d / 4)]);
            }
            std::vector<int32_t> top(d);
            for (size_t i = 0; i < d; ++i) {
                top[keys.classes.order[i]] = (1 << keys.classes.widths[i / 4]) - 1;
            }
            for (size_t i = 0; i < 2 * d; ++i) {  // two groups
                const float span = 2.0f + static_cast<float>(rng() % 3);
                keys.scale.push_back(f16_to_f32(f32_to_f16(span / static_cast<float>(std::max(top[i % d], 1)))));
                keys.minimum.push_back(f16_to_f32(f32_to_f16(normal(rng))));
            }
            for (size_t i = 0; i < n * d; ++i) {
                keys.codes.push_back(static_cast<int16_t>(rng() % static_cast<uint32_t>(top[i % d] + 1)));
            }
            const kv_block_header h = kv_class_header(n, static_cast<int32_t>(d), 128, sum_of(keys.classes.widths));
            const std::vector<uint8_t> block = pack_block(h, keys);
            CHECK_EQ(problem_of_block(block.data(), h), "");
            CHECK(read_block(block.data()).codes == keys.codes);

            const auto random_halves = [&](size_t count) {
                std::vector<uint16_t> halves;
                while (halves.size() < count) {
                    halves.push_back(f32_to_f16(normal(rng)));
                }
                return halves;
            };
            const int32_t n_open = 3 + n_new;
            const std::vector<uint16_t> sealed_values = random_halves(n * d);
            const std::vector<uint16_t> open_keys = random_halves(static_cast<size_t>(n_open) * d);
            const std::vector<uint16_t> open_values = random_halves(static_cast<size_t>(n_open) * d);
            kv_segment segments[2];
            segments[0].n_tokens = n;
            segments[0].k_blocks = block.data();
            segments[0].k_block_bytes = block.size();
            segments[0].v_rows = sealed_values.data();
            segments[1].first = n;
            segments[1].n_tokens = n_open;
            segments[1].k_rows = open_keys.data();
            segments[1].v_rows = open_values.data();
            std::vector<float> q(static_cast<size_t>(n_new * n_head) * d);
            for (size_t i = 0; i < q.size(); ++i) {  // large where widths are, as they would have been chosen
                q[i] = normal(rng) * static_cast<float>(std::max(top[i % d], 1)) / 64.0f;
            }
            std::vector<float> reference(q.size());
            attention_args a;
            a.q = q.data();
            a.out = reference.data();
            a.n_tokens = n_new;
            a.n_head = n_head;
            a.n_head_kv = 1;
            a.head_dim = static_cast<int32_t>(d);
            a.scale = 1.0f / std::sqrt(static_cast<float>(d));
            a.segments = segments;
            a.n_segments = 2;
            attention_reference(a);
            for (const cpu_kernels * level : cpu_levels()) {
                IN(level->name);
                std::vector<float> out(q.size(), NAN);
                a.out = out.data();
                attention_job job(*level, 1, a.head_dim);
                job.prepare({&a, 1});
                job.run(0, a.q, a.out);
                const double e = nmse(out, reference);
                CHECK(e < 1e-4);
                worst = std::max(worst, e);
            }
        }
    }
    std::printf("     worst NMSE %.2e\n", worst);
}

TEST(a_block_nobody_made_is_refused) {
    std::mt19937 rng(5);
    const kv_method m = class_method(3);
    const kv_block_header h = block_header(m, kv_side::key, 100, 64);
    const kv_block_map map = kv_map(h);
    const std::vector<uint8_t> good = sealed_block(m, 100, 64, 4, row_kind::normal, rng);
    CHECK_EQ(problem_of_block(good.data(), h), "");
    const auto problem = [&](size_t at, std::vector<uint8_t> bytes) {
        std::vector<uint8_t> bad = good;
        std::copy(bytes.begin(), bytes.end(), bad.begin() + static_cast<int64_t>(at));
        return problem_of_block(bad.data(), h);
    };
    const std::string impossible = "the order or the widths of its channels are impossible";
    CHECK_EQ(problem(map.order, {good[map.order + 2], good[map.order + 3]}), impossible);  // twice the same channel
    CHECK_EQ(problem(map.order, {64, 0}), impossible);
    CHECK_EQ(problem(map.order, {0xff, 0xff}), impossible);
    CHECK_EQ(problem(map.widths, {7}), impossible);
    CHECK_EQ(problem(map.widths, {9}), impossible);
    CHECK_EQ(problem(map.widths, {8}), impossible);       // another sum
    CHECK_EQ(problem(map.widths + 15, {5}), impossible);  // rises
    CHECK_EQ(problem(map.minima, {0x00, 0x7c}), "a minimum is not a number");
    CHECK_EQ(problem(map.scales, {0x01, 0x7e}), "a scale or outlier is not a number");
    CHECK_EQ(problem(12, {49, 0}), "a block's header is not what the options ask for");
    CHECK_EQ(problem(map.codes, {0xff, 0xff}), "");
}

TEST_MAIN
