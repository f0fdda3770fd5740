// Messages are one line of UTF-8, whatever a file's bytes are.

#include <string>

#include "check.h"
#include "error.h"
#include "options.h"
#include "utf8.h"

using namespace livekv;

TEST(a_message_shows_what_is_no_text) {
    CHECK_EQ(std::string(error("key 'a\xff\xc3(b'").what()), std::string("key 'a\\xff\\xc3(b'"));
    CHECK_EQ(std::string(usage_error("two\nlines\r\t\x7f").what()), std::string("two\\x0alines\\x0d\\x09\\x7f"));
    CHECK_EQ(std::string(error(std::string("nul\0!", 5)).what()), std::string("nul\\x00!"));
    CHECK_EQ(printable("a\u0085b\u009bc\u2028d\u2029e"),
             std::string("a\\xc2\\x85b\\xc2\\x9bc\\xe2\\x80\\xa8d\\xe2\\x80\\xa9e"));
    CHECK_ERROR(fail("tensor '\xf0\x9f\x98'"), "tensor '\\xf0\\x9f\\x98'");
}

TEST(text_stays_as_it_is) {
    for (const char * text : {"", "plain", "\u00e9\u4e2d\U0001f600 \u2581", "C:\\x"}) {
        CHECK_EQ(printable(text), std::string(text));
    }
}

TEST(a_long_line_keeps_its_ends) {
    CHECK_EQ(printable(std::string(1000, 'x')), std::string(1000, 'x'));
    for (const std::string & unit :
         {std::string("x"), std::string("\u4e2d"), std::string("\xff"), std::string("\U0001f600")}) {
        for (int shift = 0; shift < 4; ++shift) {
            IN("a unit of ", unit.size(), " bytes behind ", shift);
            std::string text(static_cast<size_t>(shift), '-');
            for (int i = 0; i < 2000; ++i) {
                text += unit;
            }
            const std::string shown = printable("start" + text + "end");
            CHECK(shown.size() <= 1000 && shown.size() > 990);
            CHECK(shown.starts_with("start") && shown.ends_with("end"));
            CHECK(shown.find(" ... ") != std::string::npos);
            CHECK(!first_invalid_utf8(shown));
        }
    }
}

TEST(any_bytes_become_one_line_of_utf8) {
    uint32_t seed = 1;
    for (int i = 0; i < 2000; ++i) {
        std::string bytes;
        for (int n = i % 40; n > 0; --n) {
            seed = seed * 1664525 + 1013904223;
            bytes += static_cast<char>(seed >> 24);
        }
        const std::string shown = printable(bytes);
        CHECK(!first_invalid_utf8(shown));
        CHECK(shown.find_first_of(std::string("\n\r\0", 3)) == std::string::npos);
    }
}

TEST_MAIN
