#include "session/template_text.h"

#include <jinja/runtime.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <functional>
#include <string_view>

#include "session/template_operators.h"
#include "utf8.h"

namespace livekv {

namespace {

using jinja::value;

std::string repr_of(std::string_view character, char quote) {
    const char c = character[0];
    if (c == quote || c == '\\') {
        return std::string("\\") + c;
    }
    switch (c) {
        case '\n':
            return "\\n";
        case '\r':
            return "\\r";
        case '\t':
            return "\\t";
        default:
            break;
    }
    if (is_printable_character(character)) {
        return std::string(character);
    }
    const char32_t code = code_point(character);
    return code < 0x100 ? escape("\\x", 2, code) : code < 0x10000 ? escape("\\u", 4, code) : escape("\\U", 8, code);
}

void add_repr(jinja::string & out, const value & v) {
    if (jinja::is_val<jinja::value_string>(v)) {
        const std::string text = v->val_str.str();
        const bool has_single = text.find('\'') != std::string::npos;
        const char quote = has_single && text.find('"') == std::string::npos ? '"' : '\'';
        append_quoted(out, v->val_str, quote, [&](std::string_view c) { return repr_of(c, quote); });
    } else if (const auto * range = dynamic_cast<const range_list *>(v.get())) {
        append_bytes(out, range->spelled);
    } else if (jinja::is_val<jinja::value_array>(v)) {
        const bool is_tuple = jinja::is_val<jinja::value_tuple>(v);
        append_bytes(out, is_tuple ? "(" : "[");
        for (size_t i = 0; i < v->val_arr.size(); ++i) {
            append_bytes(out, i == 0 ? "" : ", ");
            add_repr(out, v->val_arr[i]);
        }
        append_bytes(out, is_tuple ? (v->val_arr.size() == 1 ? ",)" : ")") : "]");
    } else if (jinja::is_val<jinja::value_object>(v)) {
        append_bytes(out, "{");
        bool first = true;
        for (const auto & [key, item] : v->val_obj) {
            append_bytes(out, first ? "" : ", ");
            first = false;
            add_repr(out, key);
            append_bytes(out, ": ");
            add_repr(out, item);
        }
        append_bytes(out, "}");
    } else if (jinja::is_val<jinja::value_float>(v)) {
        append_bytes(out, float_repr(v->val_flt));
    } else if (v->is_none()) {
        append_bytes(out, "None");
    } else if (v->is_undefined()) {
        append_bytes(out, "Undefined");
    } else if (jinja::is_val<jinja::value_int>(v) || jinja::is_val<jinja::value_bool>(v)) {
        append_bytes(out, v->as_string().str());
    } else {
        throw jinja::raised_exception("it writes a function");
    }
}

}  // namespace

void append_bytes(jinja::string & out, std::string text, bool is_given) {
    if (!out.parts.empty() && out.parts.back().is_input == is_given) {
        out.parts.back().val += text;
    } else if (!text.empty()) {
        out.parts.push_back({is_given, std::move(text)});
    }
}

std::string float_repr(double x) {
    if (std::isnan(x)) {
        return "nan";
    }
    if (std::isinf(x)) {
        return x < 0 ? "-inf" : "inf";
    }
    constexpr double least_fixed = 1e-4;
    constexpr double most_fixed = 1e16;
    const bool fixed = x == 0 || (std::abs(x) >= least_fixed && std::abs(x) < most_fixed);
    std::array<char, 64> digits{};
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), x,
                                   fixed ? std::chars_format::fixed : std::chars_format::scientific);
    std::string text(digits.data(), end.ptr);
    return fixed && text.find('.') == std::string::npos ? text + ".0" : text;
}

std::string escape(const char * mark, size_t n_digits, char32_t c) {
    std::string text = mark + std::string(n_digits, '0');
    for (size_t at = text.size(); c > 0; c >>= 4) {
        text[--at] = "0123456789abcdef"[c & 0xF];
    }
    return text;
}

void append_quoted(jinja::string & out, const jinja::string & text, char quote,
                   const std::function<std::string(std::string_view)> & write) {
    const marked_text whole(text);
    append_bytes(out, std::string(1, quote));
    const std::vector<size_t> at = whole.characters();
    for (size_t i = 0; i + 1 < at.size(); ++i) {
        append_bytes(out, write(std::string_view(whole.str()).substr(at[i], at[i + 1] - at[i])), whole.is_given(at[i]));
    }
    append_bytes(out, std::string(1, quote));
}

marked_text::marked_text(const jinja::string & text) {
    for (const jinja::string_part & part : text.parts) {
        text_ += part.val;
        if (!part.val.empty()) {
            parts_.push_back({text_.size(), part.is_input});
        }
    }
}

jinja::string marked_text::cut(size_t from, size_t to) const {
    jinja::string out;
    auto part = std::ranges::upper_bound(parts_, from, {}, &part::end);
    while (from < to && part != parts_.end()) {
        const size_t end = std::min(to, part->end);
        append_bytes(out, text_.substr(from, end - from), part->is_given);
        from = end;
        ++part;
    }
    return out;
}

std::vector<size_t> marked_text::characters() const {
    std::vector<size_t> at;
    size_t i = 0;
    while (i < text_.size()) {
        at.push_back(i);
        i += read_utf8(std::string_view(text_).substr(i)).length;
    }
    at.push_back(i);
    return at;
}

bool marked_text::is_given(size_t at) const {
    const auto part = std::ranges::upper_bound(parts_, at, {}, &part::end);
    return part != parts_.end() && part->is_given;
}

jinja::string python_str(const value & v) {
    if (jinja::is_val<jinja::value_string>(v)) {
        return v->val_str;
    }
    if (v->is_undefined()) {
        return {};
    }
    if (v->is_none()) {
        v->stats.used = true;
    }
    return python_repr(v);
}

jinja::string python_repr(const value & v) {
    jinja::string out;
    add_repr(out, v);
    return out;
}

}  // namespace livekv
