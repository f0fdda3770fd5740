// Classes and cases of characters, as Python has them (by PCRE2's tables).

#include <jinja/runtime.h>

#include <string>

#include "model/unicode_pattern.h"
#include "session/template_text.h"
#include "utf8.h"

namespace livekv {

namespace {

bool is_ascii(std::string_view text) {
    for (const char c : text) {
        if (static_cast<unsigned char>(c) >= 0x80) {
            return false;
        }
    }
    return true;
}

// What becomes several letters, depends on its neighbours, or shares its other case with a third letter.
constexpr const char * special =
    R"([\x{B5}\x{DF}\x{130}\x{131}\x{149}\x{17F}\x{1C4}-\x{1CC}\x{1F0}-\x{1F3}\x{345}\x{390}\x{399}\x{39C}\x{3A3}\x{3B0}\x{3B9}\x{3BC}\x{3C2}])"
    R"(|[\x{3D0}-\x{3D6}\x{3F0}-\x{3F5}\x{587}\x{1C80}-\x{1C88}\x{1E96}-\x{1E9E}\x{1F50}-\x{1F56}\x{1F80}-\x{1FFC}])"
    R"(|[\x{2126}-\x{212B}\x{2160}-\x{2188}\x{24B6}-\x{24E9}\x{A64A}\x{A64B}\x{FB00}-\x{FB17}])";

std::string in_case(std::string_view text, const char * how) {
    if (is_ascii(text)) {
        std::string out(text);
        const bool upper = how[1] == 'U';
        for (char & c : out) {
            c = upper && c >= 'a' && c <= 'z'    ? static_cast<char>(c - 'a' + 'A')
                : !upper && c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a')
                                                 : c;
        }
        return out;
    }
    static const unicode_pattern specials(special);
    if (specials.is_in(text)) {
        throw jinja::raised_exception("it changes the case of a letter that becomes several, or depends on others");
    }
    static const unicode_pattern letters(R"(\p{L}+)");
    return letters.rewritten(text, how);
}

}  // namespace

bool is_python_space(std::string_view character) {
    const char32_t c = code_point(character);
    return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_printable_character(std::string_view character) {
    if (is_ascii(character)) {
        return character[0] >= 0x20 && character[0] != 0x7F;
    }
    // Python escapes private-use characters too; here they stand for others (template_origin.h).
    static const unicode_pattern unprintable(R"([\p{Cc}\p{Cf}\p{Cn}\p{Cs}\p{Z}])");
    return !unprintable.is_in(character);
}

std::string upper_case(std::string_view text) {
    return in_case(text, "\\U$0");
}

std::string lower_case(std::string_view text) {
    return in_case(text, "\\L$0");
}

bool has_case(std::string_view character) {
    static const unicode_pattern cased(R"([\p{L&}\x{AA}\x{BA}])");
    return cased.is_in(character);
}

}  // namespace livekv
