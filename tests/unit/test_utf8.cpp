#include <string>

#include "check.h"
#include "utf8.h"

TEST(utf8_is_told_from_other_bytes) {
    CHECK(!livekv::first_invalid_utf8("aé我😁\xF4\x8F\xBF\xBF"));
    CHECK_EQ(livekv::first_invalid_utf8("a\x80").value_or(99), 1u);
    CHECK_EQ(livekv::first_invalid_utf8("é\xC0\xAF").value_or(99), 2u);       // overlong
    CHECK_EQ(livekv::first_invalid_utf8("\xED\xA0\x80").value_or(99), 0u);    // surrogate
    CHECK_EQ(livekv::first_invalid_utf8("ab\xF0\x9F\x98").value_or(99), 2u);  // cut short
    CHECK_EQ(livekv::first_invalid_utf8("\xF4\x90\x80\x80").value_or(99), 0u);
    CHECK_EQ(livekv::replace_invalid_utf8("a\xF0\x9F\x98z\xFF"), "a\uFFFDz\uFFFD");
    for (const char32_t c : {U'a', U'\u00E9', U'\u6211', U'\U0001F601'}) {
        std::string text;
        livekv::append_utf8(text, c);
        CHECK(livekv::read_utf8(text).valid && livekv::read_utf8(text).length == text.size());
    }
}

TEST_MAIN
