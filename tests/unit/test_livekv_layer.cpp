// One layer of the livekv cache, driven without a model: what it holds after passes of any sizes, trims and forks.

#include <cmath>
#include <cstring>

#include "check.h"
#include "driven_layer.h"

using namespace livekv;

namespace {

// Four bits keep a token to about 1 % of its energy; another token's would be off by 200 %.
constexpr double four_bit_error = 0.06;

bool holds_its_tokens(driven_layer & l) {
    return l.worst_error(true) < four_bit_error && l.worst_error(false) < four_bit_error;
}

}  // namespace

TEST(passes_of_any_size_give_the_same_bytes) {
    for (const kv_method::scale scale :
         {kv_method::scale::ema_absmax, kv_method::scale::ema_minmax, kv_method::scale::ema_clipped}) {
        for (const int64_t warmup : {0, 1, 2, 3}) {
            chunk_plan plan = plan_of(warmup);
            plan.method.scale_method = scale;
            driven_layer whole(plan);
            whole.grow_to(5 * chunk + 9, chunk);
            for (const int64_t step : {1, 7, 31}) {
                driven_layer parts(plan);
                parts.grow_to(5 * chunk + 9, step);
                CHECK(parts.contents() == whole.contents());
            }
            CHECK(holds_its_tokens(whole));
        }
    }
}

TEST(blocks_are_the_references_of_the_statistics_so_far) {
    for (const int64_t warmup : {0, 2, 3}) {
        chunk_plan plan = plan_of(warmup);
        plan.method.scale_method = kv_method::scale::ema_clipped;
        plan.method.clip_factor = 1.0;
        driven_layer l(plan);
        l.grow_to(6 * chunk, 5);
        const std::vector<kv_segment> segments = l.segments();
        for (size_t head = 0; head < 2; ++head) {
            std::vector<std::vector<float>> keys;
            std::vector<key_statistics> after;  // each chunk
            key_statistics statistics(plan.method, plan.head_dim);
            for (int64_t i = 0; i < 6; ++i) {
                keys.emplace_back();
                std::vector<float> values;
                for (int64_t t = 0; t < chunk; ++t) {
                    for (const bool key : {true, false}) {
                        const std::vector<float> row = row_of(1, i * chunk + t, key, plan.row());
                        const auto from = row.begin() + static_cast<int64_t>(head) * plan.head_dim;
                        (key ? keys.back() : values)
                            .insert((key ? keys.back() : values).end(), from, from + plan.head_dim);
                    }
                }
                const int64_t n_sinks = i == 0 ? 4 : 0;
                observe_keys(plan.method, statistics, keys.back(), n_sinks);
                after.push_back(statistics);
                const kv_segment & s = segments[static_cast<size_t>(i) + 1];  // sinks come first
                const std::vector<uint8_t> v =
                    pack_block(block_header(plan.method, kv_side::value, chunk, plan.head_dim),
                               seal_values(plan.method, values, plan.head_dim, n_sinks));
                CHECK(s.v_blocks && v.size() == s.v_block_bytes &&
                      std::memcmp(s.v_blocks + head * v.size(), v.data(), v.size()) == 0);
            }
            for (int64_t i = 0; i < 6; ++i) {  // warm-up keys are sealed with what is known when it ends
                const size_t known = static_cast<size_t>(std::max<int64_t>(i, warmup - 1));
                const std::vector<uint8_t> k = pack_block(
                    block_header(plan.method, kv_side::key, chunk, plan.head_dim),
                    seal_keys(plan.method, after[known], keys[static_cast<size_t>(i)], plan.head_dim, i == 0 ? 4 : 0));
                const kv_segment & s = segments[static_cast<size_t>(i) + 1];
                CHECK(s.k_blocks && k.size() == s.k_block_bytes &&
                      std::memcmp(s.k_blocks + head * k.size(), k.data(), k.size()) == 0);
            }
        }
    }
}

TEST(warm_up_keys_are_exact_until_the_statistics_settle) {
    for (const bool keep : {false, true}) {
        chunk_plan plan = plan_of(3);
        plan.warmup_keep = keep;
        driven_layer l(plan);
        for (int64_t n_chunks = 1; n_chunks <= 5; ++n_chunks) {
            l.grow_to(n_chunks * chunk, chunk);
            const std::vector<kv_segment> s = l.segments();
            for (int64_t i = 0; i < n_chunks; ++i) {
                const bool exact = i < 3 && (keep || n_chunks < 3);
                CHECK_EQ(s[static_cast<size_t>(i) + 1].k_rows != nullptr, exact);
                CHECK_EQ(s[static_cast<size_t>(i) + 1].k_blocks != nullptr, !exact);
                CHECK(s[static_cast<size_t>(i) + 1].v_blocks != nullptr);
            }
            if (n_chunks < 3) {
                CHECK_EQ(l.worst_error(true), 0.0);
            }
        }
        CHECK(l.worst_error(true) < four_bit_error);
    }
}

TEST(sinks_stay_exact) {
    for (const int32_t n_sinks : {0, 1, 4, 32}) {  // the last: a whole chunk
        chunk_plan plan = plan_of(0);
        plan.method.sink_tokens = n_sinks;
        driven_layer l(plan);
        l.grow_to(3 * chunk, 8);
        const std::vector<kv_segment> s = l.segments();
        CHECK_EQ(s.size(), n_sinks ? 5u : 4u);
        if (n_sinks) {
            CHECK_EQ(s[0].n_tokens, n_sinks);
            CHECK_EQ(s[1].n_skip, n_sinks);
            for (int64_t t = 0; t < n_sinks; ++t) {
                for (const bool key : {true, false}) {
                    const std::vector<float> expected = row_of(1, t, key, plan.row());
                    for (size_t i = 0; i < plan.row(); ++i) {
                        CHECK_EQ(f16_to_f32((key ? s[0].k_rows : s[0].v_rows)[static_cast<size_t>(t) * plan.row() + i]),
                                 expected[i]);
                    }
                }
            }
        }
        CHECK(holds_its_tokens(l));
    }
}

TEST(channels_first_seen_as_zero_are_not_zero_for_ever) {
    for (const kv_method::scale scale :
         {kv_method::scale::ema_absmax, kv_method::scale::ema_minmax, kv_method::scale::ema_clipped}) {
        chunk_plan plan = plan_of(0);
        plan.method.scale_method = scale;
        plan.method.sink_tokens = chunk - 1;  // and the last token is an outlier in every channel
        driven_layer l(plan);
        l.grow_to(3 * chunk, chunk);
        CHECK(holds_its_tokens(l));
    }
}

TEST(layers_share_the_buffer_chunks_pass_through) {
    for (const int64_t n : {5l, chunk}) {
        driven_layer first(plan_of());
        driven_layer second(plan_of());
        raw_rows passing;
        for (int pass = 0; pass < 3; ++pass) {  // as a cache does: begin all, compute one after the other, commit all
            first.begin(n, passing);
            second.begin(n, passing);
            first.compute(n, 1);
            second.compute(n, 2);
            first.commit(1);
            second.commit(2);
        }
        CHECK(holds_its_tokens(first));
        CHECK(holds_its_tokens(second));
    }
}

TEST(layers_that_do_not_seal_are_exact) {
    chunk_plan plan = plan_of(0);
    plan.bypass = true;
    plan.seals = false;
    driven_layer l(plan);
    l.grow_to(4 * chunk + 5, 7);
    CHECK_EQ(l.worst_error(true), 0.0);
    CHECK_EQ(l.worst_error(false), 0.0);
    const kv_report r = l.report();
    CHECK_EQ(r.bytes.total(), r.bytes.bypass + r.bytes.tail);
}

TEST(an_abandoned_pass_leaves_no_trace) {
    for (const int64_t n_tail : {0, 20, 31}) {
        chunk_plan plan = plan_of();
        plan.measure_error = true;
        driven_layer l(plan);
        driven_layer untouched(plan);
        l.grow_to(chunk + n_tail, 10);
        untouched.grow_to(chunk + n_tail, 10);
        l.pass(chunk - n_tail, 2);  // closes a chunk, settles the statistics, seals warm-up keys
        CHECK_EQ(l.layer().n_tokens(), chunk + n_tail);
        CHECK(l.contents() == untouched.contents());
        l.grow_to(5 * chunk, 10);
        untouched.grow_to(5 * chunk, 10);
        CHECK(l.contents() == untouched.contents());
        const kv_report a = l.report();
        const kv_report b = untouched.report();
        CHECK_EQ(a.n_saturated, b.n_saturated);
        CHECK_EQ(a.layers[0].k_snr_db, b.layers[0].k_snr_db);
        CHECK_EQ(a.layers[0].v_snr_db, b.layers[0].v_snr_db);
    }
}

TEST(trimmed_anywhere_it_holds_what_is_left_and_goes_on) {
    for (const int64_t warmup : {0, 2, 4}) {
        for (const int64_t n : {1, 3, 4, 5, 17, 31, 32, 33, 63, 64, 65, 80, 96, 97, 100, 105}) {
            driven_layer l(plan_of(warmup));
            l.grow_to(3 * chunk + 9, 9);
            l.trim(n);
            CHECK_EQ(l.layer().n_tokens(), n);
            CHECK(holds_its_tokens(l));
            l.grow_to(n + 3 * chunk + 5, 9, 2);
            CHECK(holds_its_tokens(l));
            l.trim(n + 40);
            l.trim(n);
            CHECK(holds_its_tokens(l));
            l.grow_to(n + 2, 1, 3);
            CHECK(holds_its_tokens(l));
        }
    }
}

TEST(what_a_trim_takes_off_the_tail_never_was) {
    for (const int64_t n : {64, 65, 70, 95}) {
        driven_layer l(plan_of());
        driven_layer fresh(plan_of());
        l.grow_to(n, 7);
        fresh.grow_to(n, 7);
        l.grow_to(95, 3, 2);
        l.trim(n);
        CHECK(l.contents() == fresh.contents());
        l.grow_to(150, 7);
        fresh.grow_to(150, 7);
        CHECK(l.contents() == fresh.contents());
    }
}

TEST(trimmed_to_nothing_it_is_as_new) {
    chunk_plan plan = plan_of();
    plan.measure_error = true;
    driven_layer l(plan);
    driven_layer fresh(plan);
    l.grow_to(130, 32, 2);
    l.trim(0);
    CHECK_EQ(l.bytes(), fresh.bytes());
    l.grow_to(150, 32);
    fresh.grow_to(150, 32);
    CHECK(l.contents() == fresh.contents());
    const kv_report a = l.report();
    const kv_report b = fresh.report();
    CHECK_EQ(a.bytes.total(), b.bytes.total());
    CHECK_EQ(a.layers[0].k_snr_db, b.layers[0].k_snr_db);
}

TEST(forks_share_pages_and_go_their_own_ways) {
    for (const int64_t n : {32, 40, 64, 100}) {  // before and after the warm-up keys are sealed
        driven_layer parent(plan_of());
        parent.grow_to(n, 9);
        const std::string before = parent.contents();
        driven_layer child = parent.fork();
        CHECK(child.contents() == before);
        const std::vector<kv_segment> a = parent.segments();
        const std::vector<kv_segment> b = child.segments();
        for (size_t i = 1; i + 1 < a.size(); ++i) {
            CHECK(a[i].k_blocks == b[i].k_blocks && a[i].v_blocks == b[i].v_blocks && a[i].k_rows == b[i].k_rows);
        }
        child.grow_to(200, 9, 2);
        CHECK(parent.contents() == before);
        child.trim(20);
        child.grow_to(90, 9, 3);
        CHECK(parent.contents() == before);
        CHECK(holds_its_tokens(child));
        driven_layer alone(plan_of());
        alone.grow_to(n, 9);
        alone.grow_to(170, 9);
        parent.grow_to(170, 9);
        CHECK(parent.contents() == alone.contents());
        CHECK(holds_its_tokens(child));  // its first pages were its parent's too
    }
}

TEST_MAIN
