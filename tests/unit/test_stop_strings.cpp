#include <random>

#include "check.h"
#include "error.h"
#include "session/stop_strings.h"

using namespace livekv;

namespace {

struct outcome {
    std::string text;
    bool found;
};

outcome stream(const std::vector<std::string> & stops, const std::vector<std::string> & pieces) {
    stop_strings s(stops);
    std::string text;
    for (const std::string & piece : pieces) {
        text += s.push(piece);
    }
    return {text + s.finish(), s.found()};
}

// What a stream must give, from the whole text at once.
outcome whole(const std::vector<std::string> & stops, const std::string & text) {
    for (size_t end = 0; end <= text.size(); ++end) {
        size_t longest = 0;
        for (const std::string & stop : stops) {
            if (text.substr(0, end).ends_with(stop)) {
                longest = std::max(longest, stop.size());
            }
        }
        if (longest > 0) {
            return {text.substr(0, end - longest), true};
        }
    }
    return {text, false};
}

}  // namespace

TEST(without_stop_strings_text_passes_at_once) {
    stop_strings s({});
    CHECK_EQ(s.push("abc"), "abc");
    CHECK_EQ(s.finish(), "");
    CHECK(!s.found());
}

TEST(what_may_begin_a_stop_string_waits) {
    stop_strings s({"\n\nQ:"});
    CHECK_EQ(s.push("yes\n"), "yes");
    CHECK_EQ(s.push("\n"), "");
    CHECK_EQ(s.push("\nQ"), "\n");
    CHECK_EQ(s.push("uite"), "\n\nQuite");
    CHECK_EQ(s.push("!\n\n"), "!");
    CHECK_EQ(s.push("Q: more"), "");
    CHECK(s.found());
    CHECK_EQ(s.push("anything"), "");
    CHECK_EQ(s.finish(), "");
}

TEST(a_beginning_that_came_to_nothing_is_handed_out_at_the_end) {
    stop_strings s({"END", "ENOUGH"});
    CHECK_EQ(s.push("the EN"), "the ");
    CHECK_EQ(s.finish(), "EN");
    CHECK(!s.found());
}

TEST(the_text_does_not_depend_on_how_it_is_cut) {
    std::mt19937 rng(1);
    int n_found = 0;
    for (int trial = 0; trial < 3000; ++trial) {
        const auto letters = [&](size_t n) {
            std::string text;
            while (text.size() < n) {
                text += static_cast<char>('a' + rng() % 3);
            }
            return text;
        };
        std::vector<std::string> stops;
        for (size_t i = rng() % 3; i < 3; ++i) {
            stops.push_back(letters(1 + rng() % 6));
        }
        const std::string text = letters(rng() % 40);
        std::vector<std::string> pieces;
        for (size_t at = 0; at < text.size();) {
            const size_t n = rng() % 5;
            pieces.push_back(text.substr(at, n));
            at += n;
        }
        const outcome got = stream(stops, pieces);
        const outcome expected = whole(stops, text);
        CHECK_EQ(got.text, expected.text);
        CHECK_EQ(got.found, expected.found);
        n_found += got.found;
    }
    CHECK(n_found > 500 && n_found < 2900);
}

TEST(an_empty_stop_string_is_an_error) {
    CHECK_ERROR(stop_strings({"a", ""}), "a stop string is empty");
}

TEST_MAIN
