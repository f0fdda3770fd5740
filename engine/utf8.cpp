#include "utf8.h"

#include <cstdint>

namespace livekv {

utf8_head read_utf8(std::string_view text) {
    const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
    const uint8_t lead = byte(0);
    if (lead < 0x80) {
        return {1, true, false};
    }
    if (lead < 0xC2 || lead > 0xF4) {
        return {1, false, false};
    }
    const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    // The second byte's range excludes overlong forms, surrogates and what lies beyond U+10FFFF (Unicode, table 3-7).
    uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    for (size_t i = 1; i < length; ++i) {
        if (i == text.size()) {
            return {i, false, true};
        }
        if (byte(i) < low || byte(i) > high) {
            return {i, false, false};
        }
        low = 0x80;
        high = 0xBF;
    }
    return {length, true, false};
}

char32_t code_point(std::string_view character) {
    const auto bits = [&](size_t i) { return static_cast<char32_t>(static_cast<uint8_t>(character[i])) & 0x3F; };
    const auto lead = static_cast<char32_t>(static_cast<uint8_t>(character[0]));
    switch (character.size()) {
        case 1:
            return lead;
        case 2:
            return (lead & 0x1F) << 6 | bits(1);
        case 3:
            return (lead & 0x0F) << 12 | bits(1) << 6 | bits(2);
        default:
            return (lead & 0x07) << 18 | bits(1) << 12 | bits(2) << 6 | bits(3);
    }
}

std::optional<size_t> first_invalid_utf8(std::string_view text) {
    for (size_t at = 0; at < text.size();) {
        const utf8_head head = read_utf8(text.substr(at));
        if (!head.valid) {
            return at;
        }
        at += head.length;
    }
    return std::nullopt;
}

std::string replace_invalid_utf8(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    while (!text.empty()) {
        const utf8_head head = read_utf8(text);
        out += head.valid ? text.substr(0, head.length) : std::string_view("\uFFFD");
        text.remove_prefix(head.length);
    }
    return out;
}

void append_utf8(std::string & out, char32_t code_point) {
    const auto put = [&](char32_t bits) { out += static_cast<char>(bits); };
    if (code_point < 0x80) {
        put(code_point);
        return;
    }
    if (code_point < 0x800) {
        put(0xC0 | code_point >> 6);
    } else {
        if (code_point < 0x10000) {
            put(0xE0 | code_point >> 12);
        } else {
            put(0xF0 | code_point >> 18);
            put(0x80 | (code_point >> 12 & 0x3F));
        }
        put(0x80 | (code_point >> 6 & 0x3F));
    }
    put(0x80 | (code_point & 0x3F));
}

}  // namespace livekv
