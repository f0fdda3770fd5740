// Texts made of others: lines indented, places filled, and numbers read.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "session/template_numbers.h"
#include "session/template_strings.h"
#include "session/template_text.h"
#include "utf8.h"

namespace livekv {

using jinja::value;

namespace {

bool is_number(const std::string & text, bool with_point) {
    constexpr size_t most_digits = 18;
    std::string digits = text.substr(!text.empty() && (text[0] == '+' || text[0] == '-') ? 1 : 0);
    const size_t point = with_point ? digits.find('.') : std::string::npos;
    if (point != std::string::npos) {
        digits.erase(point, 1);
    }
    return !digits.empty() && digits.size() <= most_digits &&
           digits.find_first_not_of("0123456789") == std::string::npos;
}

}  // namespace

std::vector<stretch> lines_of(const marked_text & text) {
    const std::vector<size_t> at = text.characters();
    std::vector<stretch> lines;
    size_t from = 0;
    for (size_t i = 0; i + 1 < at.size(); ++i) {
        const char32_t c = code_point(character(text, at, i));
        const bool breaks =
            (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
        if (breaks) {
            lines.push_back({from, at[i]});
            const bool is_pair = c == '\r' && i + 2 < at.size() && text.str()[at[i + 1]] == '\n';
            i += is_pair ? 1 : 0;
            from = at[i + 1];
        }
    }
    lines.push_back({from, text.str().size()});
    return lines;
}

jinja::string indent(const jinja::string & text, const given_arguments & arguments) {
    const value width = arguments.get("width", 0);
    const bool first = arguments.is_true("first", 1);
    const bool blank = arguments.is_true("blank", 2);
    const jinja::string space =
        width && jinja::is_val<jinja::value_string>(width)
            ? width->val_str
            : jinja::string(
                  std::string(static_cast<size_t>(std::max<int64_t>(0, arguments.number("width", 0, 4))), ' '));
    const marked_text whole(text);
    jinja::string out;
    bool is_first = true;
    for (const stretch & line : lines_of(whole)) {
        if (!is_first) {
            append_text(out, jinja::string("\n"));
        }
        if (is_first ? first : blank || line.from < line.to) {
            append_text(out, space);
        }
        append_text(out, whole.cut(line.from, line.to));
        is_first = false;
    }
    return out;
}

// str.format with {} alone.
jinja::string format_braces(const jinja::string & form, const given_arguments & arguments) {
    const marked_text whole(form);
    const std::string & text = whole.str();
    jinja::string out;
    size_t from = 0;
    size_t next = 0;
    for (size_t at; (at = text.find_first_of("{}", from)) != std::string::npos; from = at + 2) {
        if (text.compare(at, 2, "{}") != 0) {
            refuse("format() is done with {} alone");
        }
        if (next >= arguments.in_order.size()) {
            refuse("format() has more {} than arguments");
        }
        append_text(out, whole.cut(from, at));
        append_text(out, python_str(arguments.in_order[next++]));
    }
    append_text(out, whole.cut(from, text.size()));
    return out;
}

// The filter format and the operator %: with %s, %d of an integer, and %%.
jinja::string format_percent(const jinja::string & form, const given_arguments & arguments) {
    const marked_text whole(form);
    const std::string & text = whole.str();
    jinja::string out;
    size_t from = 0;
    size_t next = 0;
    for (size_t at; (at = text.find('%', from)) != std::string::npos; from = at + 2) {
        append_text(out, whole.cut(from, at));
        const char what = at + 1 < text.size() ? text[at + 1] : '\0';
        if (what == '%') {
            append_text(out, jinja::string("%"));
            continue;
        }
        if (what != 's' && what != 'd') {
            refuse("a format is done with %s, %d and %% alone");
        }
        if (next >= arguments.in_order.size()) {
            refuse("a format has more places than arguments");
        }
        const value & v = arguments.in_order[next++];
        if (what == 'd' && !jinja::is_val<jinja::value_int>(v)) {
            refuse("a format has %d for what is no integer");
        }
        append_text(out, python_str(v));
    }
    if (next < arguments.in_order.size()) {
        refuse("a format has more arguments than places");
    }
    append_text(out, whole.cut(from, text.size()));
    return out;
}

// Numbers in plain digits; other texts that Python may read as one are refused.
value number_of(const std::string & name, const jinja::string & text, const given_arguments & arguments) {
    arguments.require(name, 1, {"default"});
    const std::string plain = strip(text, nullptr, true, true).str();
    const bool whole = is_number(plain, false);
    if (whole || is_number(plain, true)) {
        if (name == "float") {
            return jinja::mk_val<jinja::value_float>(std::stod(plain));
        }
        if (!whole) {
            return whole_number(std::stod(plain));
        }
        return jinja::mk_val<jinja::value_int>(std::stoll(plain));
    }
    const std::string name_of_number = plain.substr(plain.starts_with('+') || plain.starts_with('-') ? 1 : 0, 3);
    if (plain.find_first_of("0123456789") != std::string::npos || name_of_number == "inf" || name_of_number == "nan") {
        refuse("the filter " + name + " is given '" + plain + "', which is no plain number");
    }
    const value otherwise = arguments.get("default", 0);
    if (otherwise) {
        return otherwise;
    }
    return name == "float" ? value(jinja::mk_val<jinja::value_float>(0.0)) : value(jinja::mk_val<jinja::value_int>(0));
}

value rounded(const value & v, const given_arguments & arguments) {
    constexpr int64_t most_digits = 20;
    const int64_t digits = arguments.number("precision", 0, 0);
    const value method = arguments.get("method", 1);
    const std::string how = method ? python_str(method).str() : "common";
    if (digits < 0 || digits > most_digits || (how != "common" && how != "ceil" && how != "floor")) {
        refuse("the filter round is done with 0 to 20 digits, common, ceil and floor");
    }
    if (how != "common") {
        const double scale = std::pow(10.0, static_cast<double>(digits));
        const double scaled = as_double(v) * scale;
        return jinja::mk_val<jinja::value_float>((how == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
    }
    if (jinja::is_val<jinja::value_int>(v)) {
        return v;
    }
    // The C library writes exact digits, and half to even, as Python does.
    std::string text(512, '\0');
    text.resize(
        static_cast<size_t>(std::snprintf(text.data(), text.size(), "%.*f", static_cast<int>(digits), v->val_flt)));
    return jinja::mk_val<jinja::value_float>(std::strtod(text.c_str(), nullptr));
}

}  // namespace livekv
