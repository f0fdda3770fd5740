#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>

#include "check.h"
#include "error.h"
#include "session/sampler.h"

using namespace livekv;

namespace {

sampler_params plain(double temperature) {
    sampler_params p;
    p.temperature = temperature;
    p.top_k = 0;
    p.top_p = 1.0;
    p.min_p = 0.0;
    p.seed = 42;
    return p;
}

// Natural logarithms of 0.5, 0.3, 0.15, 0.05: softmax gives these probabilities back.
const std::vector<float> logits = {std::log(0.15f), std::log(0.5f), std::log(0.05f), std::log(0.3f)};

std::map<int32_t, double> frequencies(const sampler_params & params, int n) {
    sampler s(params);
    std::map<int32_t, double> share;
    for (int i = 0; i < n; ++i) {
        share[s.next(logits)] += 1.0 / n;
    }
    return share;
}

}  // namespace

TEST(greedy_takes_the_largest_and_the_first_of_equals) {
    sampler s(plain(0.0));
    CHECK_EQ(s.next(logits), 1);
    CHECK_EQ(s.next(std::vector<float>{2.0f, 7.0f, 7.0f}), 1);
}

TEST(temperature_one_samples_the_softmax) {
    const auto share = frequencies(plain(1.0), 40000);
    // Standard error of a share of 0.5 over 40,000 draws: 0.0025; four of them allowed.
    const double expected[] = {0.15, 0.5, 0.05, 0.3};
    for (int32_t id = 0; id < 4; ++id) {
        CHECK(std::fabs(share.at(id) - expected[id]) < 0.01);
    }
}

TEST(top_k_top_p_and_min_p_cut_the_tail) {
    sampler_params p = plain(1.0);
    p.top_k = 2;
    auto share = frequencies(p, 4000);
    CHECK_EQ(share.size(), size_t(2));
    CHECK(std::fabs(share.at(1) - 0.625) < 0.04);  // 0.5 / 0.8
    p = plain(1.0);
    p.top_p = 0.75;  // 0.5 + 0.3 reach it
    CHECK_EQ(frequencies(p, 4000).size(), size_t(2));
    p = plain(1.0);
    p.min_p = 0.2;  // 0.1 and more stay
    CHECK_EQ(frequencies(p, 4000).size(), size_t(3));
    p.top_p = 0.0;  // the best one always stays
    CHECK_EQ(frequencies(p, 100).size(), size_t(1));
}

TEST(same_seed_same_tokens_other_seed_others) {
    const auto draw = [](uint64_t seed) {
        sampler_params p = plain(1.0);
        p.seed = seed;
        sampler s(p);
        std::string text;
        for (int i = 0; i < 64; ++i) {
            text += std::to_string(s.next(logits));
        }
        return text;
    };
    CHECK_EQ(draw(1), draw(1));
    CHECK(draw(1) != draw(2));
}

TEST(repetition_penalty_divides_positive_and_multiplies_negative_logits) {
    sampler_params p = plain(0.0);
    p.repeat_penalty = 2.0;
    sampler s(p);
    const std::vector<float> two = {1.5f, 1.0f};
    CHECK_EQ(s.next(two), 0);
    CHECK_EQ(s.next(two), 1);  // 1.5 / 2 < 1
    sampler t(p);
    t.observe(0);
    CHECK_EQ(t.next(std::vector<float>{-1.0f, -1.5f}), 1);  // -1 * 2 < -1.5
}

TEST(the_penalty_forgets_after_repeat_last_n) {
    sampler_params p = plain(0.0);
    p.repeat_penalty = 100.0;
    p.repeat_last_n = 2;
    sampler s(p);
    s.observe(0);
    s.observe(5);
    s.observe(6);
    CHECK_EQ(s.next(std::vector<float>{2.0f, 1.0f}), 0);
}

TEST(the_penalty_is_its_definition_over_any_history) {
    std::mt19937 rng(5);
    constexpr int32_t n_vocab = 50;
    const auto random = [&](int32_t low, int32_t high) {
        return std::uniform_int_distribution<int32_t>(low, high)(rng);
    };
    for (int round = 0; round < 2000; ++round) {
        sampler_params p = plain(0.0);
        p.repeat_penalty = random(0, 1) ? 1.7 : 0.6;
        p.repeat_last_n = random(0, 8);
        sampler s(p);
        std::vector<int32_t> history;
        for (int32_t n = random(0, 20); n > 0; --n) {
            history.push_back(random(-1, n_vocab + 2));  // ids beyond the logits too: no one's
            s.observe(history.back());
        }
        std::vector<float> given(n_vocab);
        for (float & x : given) {
            x = static_cast<float>(random(-400, 400)) / 100.0f;
        }
        std::vector<float> expected = given;
        const size_t n_recent = std::min(history.size(), static_cast<size_t>(p.repeat_last_n));
        for (int32_t id = 0; id < n_vocab; ++id) {
            if (std::count(history.end() - static_cast<int64_t>(n_recent), history.end(), id) > 0) {
                float & x = expected[static_cast<size_t>(id)];
                x = static_cast<float>(x * (x > 0.0f ? 1.0 / p.repeat_penalty : p.repeat_penalty));
            }
        }
        const auto best = std::max_element(expected.begin(), expected.end()) - expected.begin();
        CHECK_EQ(s.next(given), best);
    }
}

TEST(banned_tokens_are_never_chosen) {
    sampler s(plain(0.0));
    CHECK_EQ(s.next(logits, std::vector<int32_t>{1}), 3);
    CHECK_ERROR(s.next(std::vector<float>{1.0f}, std::vector<int32_t>{0}), "all of them are banned");
}

TEST(logits_that_are_not_numbers_are_an_error) {
    sampler s(plain(1.0));
    CHECK_ERROR(s.next(std::vector<float>{1.0f, std::numeric_limits<float>::quiet_NaN()}),
                "not numbers: that of token 1 is nan");
    CHECK_ERROR(s.next(std::vector<float>{std::numeric_limits<float>::infinity(), 1.0f}),
                "not numbers: that of token 0 is inf");
}

TEST(parameters_out_of_their_range_are_errors) {
    const auto with = [](auto change) {
        sampler_params p = plain(1.0);
        change(p);
        return p;
    };
    const double nan = std::numeric_limits<double>::quiet_NaN();
    CHECK_ERROR(sampler(plain(-1.0)), "temperature -1 is not a number in 0..100");
    CHECK_ERROR(sampler(plain(nan)), "temperature");
    CHECK_ERROR(sampler(with([](sampler_params & p) { p.top_k = -1; })), "top_k -1 is not a number of 0 or more");
    CHECK_ERROR(sampler(with([](sampler_params & p) { p.top_p = 1.1; })), "top_p 1.1");
    CHECK_ERROR(sampler(with([nan](sampler_params & p) { p.min_p = nan; })), "min_p");
    CHECK_ERROR(sampler(with([](sampler_params & p) { p.repeat_penalty = 0.0; })), "repeat_penalty 0 ");
    CHECK_ERROR(sampler(with([](sampler_params & p) { p.repeat_last_n = -1; })), "repeat_last_n");
}

TEST_MAIN
