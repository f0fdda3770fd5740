#include "model/nfc.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <unordered_map>
#include <vector>

#include "model/nfc_tables.h"
#include "utf8.h"

namespace livekv {

namespace {

// Hangul syllables are composed of a leading consonant, a vowel and a trailing consonant or none, by counting.
constexpr char32_t leads = 0x1100, vowels = 0x1161, trails = 0x11A7, syllables = 0xAC00;
constexpr char32_t n_leads = 19, n_vowels = 21, n_trails = 28, n_syllables = n_leads * n_vowels * n_trails;

bool is_in(char32_t c, char32_t begin, char32_t count) {
    return c >= begin && c - begin < count;
}

int combining_class(char32_t c) {
    const auto * run = std::ranges::upper_bound(nfc::class_runs, c, {}, &nfc::class_run::first);
    return run != std::begin(nfc::class_runs) && c <= std::prev(run)->last ? std::prev(run)->combining_class : 0;
}

void append_decomposed(char32_t c, std::u32string & out) {
    if (is_in(c, syllables, n_syllables)) {
        const char32_t at = c - syllables;
        out += leads + at / (n_vowels * n_trails);
        out += vowels + at / n_trails % n_vowels;
        if (at % n_trails != 0) {
            out += trails + at % n_trails;
        }
        return;
    }
    const auto * found = std::ranges::lower_bound(nfc::mappings, c, {}, &nfc::mapping::character);
    if (found == std::end(nfc::mappings) || found->character != c) {
        out += c;
        return;
    }
    append_decomposed(found->first, out);
    if (found->second != 0) {
        append_decomposed(found->second, out);
    }
}

// What two characters become, or 0.
char32_t composed(char32_t first, char32_t second) {
    if (is_in(first, leads, n_leads) && is_in(second, vowels, n_vowels)) {
        return syllables + ((first - leads) * n_vowels + (second - vowels)) * n_trails;
    }
    if (is_in(first, syllables, n_syllables) && (first - syllables) % n_trails == 0 &&
        is_in(second, trails + 1, n_trails - 1)) {
        return first + (second - trails);
    }
    const auto key = [](char32_t a, char32_t b) { return static_cast<uint64_t>(a) << 32 | b; };
    static const std::unordered_map<uint64_t, char32_t> pairs = [&] {
        std::unordered_map<uint64_t, char32_t> made;
        for (const nfc::mapping & m : nfc::mappings) {
            if (m.composes) {
                made.emplace(key(m.first, m.second), m.character);
            }
        }
        return made;
    }();
    const auto at = pairs.find(key(first, second));
    return at == pairs.end() ? 0 : at->second;
}

// In place, of decomposed text: each run of marks by their classes.
void sort_marks(std::u32string & text, std::vector<std::pair<int, char32_t>> & run) {
    for (size_t i = 0; i < text.size();) {
        run.clear();
        const size_t begin = i;
        for (int c = 0; i < text.size() && (c = combining_class(text[i])) != 0; ++i) {
            run.emplace_back(c, text[i]);
        }
        std::ranges::stable_sort(run, {}, &std::pair<int, char32_t>::first);
        for (size_t k = 0; k < run.size(); ++k) {
            text[begin + k] = run[k].second;
        }
        i += run.empty();
    }
}

// In place, of decomposed and sorted text.
void compose(std::u32string & text) {
    size_t n = 0;               // characters that are kept, in front of text
    size_t starter = SIZE_MAX;  // the last of them with class 0
    int last_class = 0;         // of the last kept one behind it
    for (const char32_t c : std::u32string(text)) {
        const int c_class = combining_class(c);
        const bool adjacent = starter != SIZE_MAX && n == starter + 1;
        if (starter != SIZE_MAX && (adjacent || last_class < c_class)) {
            if (const char32_t both = composed(text[starter], c)) {
                text[starter] = both;
                continue;
            }
        }
        if (c_class == 0) {
            starter = n;
        }
        last_class = c_class;
        text[n++] = c;
    }
    text.resize(n);
}

void append_nfc(std::string_view text, std::string & out) {
    std::u32string characters;
    while (!text.empty()) {
        const utf8_head head = read_utf8(text);
        append_decomposed(code_point(text.substr(0, head.length)), characters);
        text.remove_prefix(head.length);
    }
    std::vector<std::pair<int, char32_t>> run;
    sort_marks(characters, run);
    compose(characters);
    for (const char32_t c : characters) {
        append_utf8(out, c);
    }
}

}  // namespace

std::string to_nfc(std::string_view text) {
    if (std::ranges::all_of(text, [](char c) { return static_cast<signed char>(c) >= 0; })) {
        return std::string(text);
    }
    std::string out;
    while (!text.empty()) {
        size_t whole = 0;
        utf8_head head = {};
        while (whole < text.size() && (head = read_utf8(text.substr(whole))).valid) {
            whole += head.length;
        }
        append_nfc(text.substr(0, whole), out);
        const size_t broken = whole < text.size() ? head.length : 0;
        out += text.substr(whole, broken);
        text.remove_prefix(whole + broken);
    }
    return out;
}

}  // namespace livekv
