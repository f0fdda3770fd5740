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
    CHECK_ERROR(fail("tensor '\xf0\x9f\x98'"), "tensor '\\xf0\\x9f\\x98'");
}

TEST(text_stays_as_it_is) {
    for (const char * text : {"", "plain", "\u00e9\u4e2d\U0001f600 \u2581", "C:\\x"}) {
        CHECK_EQ(printable(text), std::string(text));
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
