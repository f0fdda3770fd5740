#include <limits>
#include <vector>

#include "check.h"
#include "finite.h"

using namespace livekv;

TEST(the_first_that_is_no_number_is_found_wherever_it_is) {
    using limits = std::numeric_limits<float>;
    for (const float bad : {limits::quiet_NaN(), -limits::quiet_NaN(), limits::infinity(), -limits::infinity()}) {
        for (size_t n = 1; n < 70; ++n) {
            for (size_t at = 0; at < n; ++at) {
                std::vector<float> values(n, 1.0f);
                values[at] = bad;
                CHECK(first_not_finite(values) == at);
                values[n - 1] = bad;
                CHECK(first_not_finite(values) == at);
            }
        }
    }
}

TEST(every_number_is_one) {
    using limits = std::numeric_limits<float>;
    const std::vector<float> values = {0.0f, -0.0f, limits::denorm_min(), limits::max(), limits::lowest(), 1.5f};
    CHECK(!first_not_finite(values));
    CHECK(!first_not_finite({}));
}

TEST(what_is_beyond_a_limit_is_found_on_both_sides) {
    using limits = std::numeric_limits<float>;
    for (const float bad :
         {limits::quiet_NaN(), -limits::quiet_NaN(), limits::infinity(), -limits::infinity(), 2.0001f, -2.0001f}) {
        for (size_t n = 1; n < 40; ++n) {
            std::vector<float> values(n, n % 2 == 0 ? 2.0f : -2.0f);
            CHECK(all_within(values, 2.0f));
            values[n / 2] = bad;
            CHECK(!all_within(values, 2.0f));
        }
    }
    CHECK(all_within({}, 0.0f) && all_within(std::vector<float>{0.0f, -0.0f}, 0.0f));
    CHECK(all_within(std::vector<float>{limits::max(), limits::lowest()}, limits::max()));
}

TEST_MAIN
