// What templates do to texts: the methods of Python's str, and Jinja's filters of the same names.

#include "session/template_strings.h"

#include <algorithm>
#include <limits>

#include "session/template_budget.h"
#include "session/template_functions.h"
#include "session/template_text.h"
#include "utf8.h"

namespace livekv {

namespace {

using jinja::value;

// The bytes of the character in front of end.
size_t last_character(std::string_view text, size_t end) {
    size_t from = end - 1;
    while (from > 0 && (static_cast<unsigned char>(text[from]) & 0xC0) == 0x80) {
        --from;
    }
    return end - from;
}

// The text with each of its stretches of one origin rewritten.
template <typename F>
jinja::string each_part(jinja::string text, F f) {
    for (jinja::string_part & part : text.parts) {
        part.val = f(part.val);
    }
    return text;
}

jinja::string upper(const jinja::string & text) {
    return each_part(text, [](const std::string & s) { return upper_case(s); });
}

jinja::string lower(const jinja::string & text) {
    return each_part(text, [](const std::string & s) { return lower_case(s); });
}

jinja::string first_upper(const marked_text & text, size_t from, size_t to) {
    if (from == to) {
        return {};
    }
    const size_t n = read_utf8(std::string_view(text.str()).substr(from)).length;
    jinja::string out = upper(text.cut(from, from + n));
    append_text(out, lower(text.cut(from + n, to)));
    return out;
}

// The filter parts words at white space and opening brackets, the method wherever no letter with a case stands.
jinja::string title(const jinja::string & text, call_kind kind) {
    const marked_text whole(text);
    const std::vector<size_t> at = whole.characters();
    const auto parts_words = [&](size_t i) {
        const std::string_view c = character(whole, at, i);
        return kind == call_kind::method ? !has_case(c)
                                         : is_python_space(c) || std::string_view("-({[<").find(c) != std::string::npos;
    };
    jinja::string out;
    for (size_t i = 0; i + 1 < at.size();) {
        size_t end = i;
        while (end + 1 < at.size() && !parts_words(end)) {
            ++end;
        }
        append_text(out, first_upper(whole, at[i], at[end]));
        if (end + 1 < at.size()) {
            append_text(out, whole.cut(at[end], at[end + 1]));
        }
        i = end + 1;
    }
    return out;
}

// As str.split and, from the end, str.rsplit.
std::vector<stretch> split_at_spaces(const marked_text & text, size_t most, bool from_end) {
    const std::vector<size_t> at = text.characters();
    std::vector<stretch> words;
    for (size_t i = 0; i + 1 < at.size(); ++i) {
        if (is_python_space(character(text, at, i))) {
            continue;
        }
        const size_t from = i;
        while (i + 1 < at.size() && !is_python_space(character(text, at, i))) {
            ++i;
        }
        words.push_back({at[from], at[i]});
    }
    if (words.size() > most && !from_end) {  // the rest is one, up to the text's end
        words.resize(most + 1);
        words.back().to = text.str().size();
    } else if (words.size() > most) {
        words.erase(words.begin(), words.end() - static_cast<std::ptrdiff_t>(most) - 1);
        words.front().from = 0;
    }
    return words;
}

std::vector<stretch> split_at(const std::string & text, const std::string & separator, size_t most, bool from_end) {
    std::vector<stretch> parts;
    size_t from = 0;
    size_t to = text.size();
    while (parts.size() < most) {
        const size_t at =
            from_end ? (to < separator.size() ? std::string::npos : text.rfind(separator, to - separator.size()))
                     : text.find(separator, from);
        if (at == std::string::npos) {
            break;
        }
        parts.push_back(from_end ? stretch{at + separator.size(), to} : stretch{from, at});
        (from_end ? to : from) = from_end ? at : at + separator.size();
    }
    parts.push_back({from, to});
    if (from_end) {
        std::ranges::reverse(parts);
    }
    return parts;
}

value split(const jinja::string & text, const given_arguments & arguments, bool from_end) {
    const marked_text whole(text);
    const value separator = arguments.get("sep", 0);
    const int64_t given_most = arguments.number("maxsplit", 1, -1);
    const size_t most = given_most < 0 ? std::numeric_limits<size_t>::max() - 1 : static_cast<size_t>(given_most);
    std::vector<stretch> parts;
    if (!separator || separator->is_none()) {
        parts = split_at_spaces(whole, most, from_end);
    } else {
        const std::string mark = text_of(separator, "split").str();
        if (mark.empty()) {
            refuse("empty separator");
        }
        parts = split_at(whole.str(), mark, most, from_end);
    }
    constexpr double value_bytes = 320.0;
    template_budget::running().require_room(value_bytes * static_cast<double>(parts.size()));
    auto list = jinja::mk_val<jinja::value_array>();
    for (const stretch & part : parts) {
        list->push_back(text_value(whole.cut(part.from, part.to)));
    }
    return list;
}

jinja::string replace(const jinja::string & text, const given_arguments & arguments) {
    const marked_text whole(text);
    const std::string old = python_str(arguments.get("old", 0)).str();
    const jinja::string with = python_str(arguments.get("new", 1));
    const value count = arguments.get("count", 2);
    int64_t left = count && !count->is_none() ? arguments.number("count", 2, -1) : -1;
    jinja::string out;
    size_t from = 0;
    if (old.empty()) {  // in front of each character, and behind the last
        for (const size_t at : whole.characters()) {
            append_text(out, whole.cut(from, at));
            from = at;
            if (left != 0) {
                append_text(out, with);
                --left;
            }
        }
        return out;
    }
    for (size_t at; left != 0 && (at = whole.str().find(old, from)) != std::string::npos; --left) {
        append_text(out, whole.cut(from, at));
        append_text(out, with);
        from = at + old.size();
    }
    append_text(out, whole.cut(from, whole.str().size()));
    return out;
}

value has_end(const std::string & name, const jinja::string & text, const given_arguments & arguments) {
    arguments.require(name, 1, {});
    const value v = arguments.get("", 0);
    std::vector<value> ends = {v};
    if (v && jinja::is_val<jinja::value_tuple>(v)) {
        ends = v->val_arr;
    }
    const std::string whole = text.str();
    const bool found = std::ranges::any_of(ends, [&](const value & end) {
        const std::string one = text_of(end, name).str();
        return name == "startswith" ? whole.starts_with(one) : whole.ends_with(one);
    });
    return jinja::mk_val<jinja::value_bool>(found);
}

}  // namespace

const jinja::string & text_of(const value & v, const std::string & function) {
    if (!v || !jinja::is_val<jinja::value_string>(v)) {
        refuse(function + " is given " + (v ? v->type() : "nothing") + " where it needs text");
    }
    return v->val_str;
}

std::string_view character(const marked_text & text, const std::vector<size_t> & at, size_t i) {
    return std::string_view(text.str()).substr(at[i], at[i + 1] - at[i]);
}

jinja::string strip(const jinja::string & text, const value & chars, bool left, bool right) {
    const marked_text whole(text);
    const std::string_view s = whole.str();
    const bool by_space = !chars || chars->is_none();
    const marked_text wanted(by_space ? jinja::string() : text_of(chars, "strip"));
    const std::vector<size_t> wanted_at = wanted.characters();
    const auto goes = [&](std::string_view c) {
        if (by_space) {
            return is_python_space(c);
        }
        for (size_t k = 0; k + 1 < wanted_at.size(); ++k) {
            if (character(wanted, wanted_at, k) == c) {
                return true;
            }
        }
        return false;
    };
    size_t from = 0;
    size_t to = s.size();
    for (size_t n; left && from < to; from += n) {
        n = read_utf8(s.substr(from)).length;
        if (!goes(s.substr(from, n))) {
            break;
        }
    }
    for (size_t n; right && to > from; to -= n) {
        n = last_character(s, to);
        if (!goes(s.substr(to - n, n))) {
            break;
        }
    }
    return whole.cut(from, to);
}

std::optional<value> text_function(const std::string & name, call_kind kind, const value & input,
                                   const given_arguments & arguments) {
    const bool is_filter = kind == call_kind::filter;
    const bool of_any = is_filter && (name == "capitalize" || name == "lower" || name == "upper" || name == "title" ||
                                      name == "strip" || name == "replace" || name == "format");
    if (!jinja::is_val<jinja::value_string>(input) && (!of_any || input->is_undefined())) {
        return std::nullopt;
    }
    const jinja::string text = python_str(input);
    if (name == "upper" || name == "lower" || name == "capitalize" || name == "title") {
        arguments.require(name, 0, {});
        const marked_text whole(text);
        return text_value(name == "upper"        ? upper(text)
                          : name == "lower"      ? lower(text)
                          : name == "capitalize" ? first_upper(whole, 0, whole.str().size())
                                                 : title(text, kind));
    }
    if (name == "strip" || name == "lstrip" || name == "rstrip") {
        arguments.require(name, 1, {"chars"});
        return text_value(strip(text, arguments.get("chars", 0), name != "rstrip", name != "lstrip"));
    }
    if (name == "split" || name == "rsplit") {
        arguments.require(name, 2, {"sep", "maxsplit"});
        return split(text, arguments, name == "rsplit");
    }
    if (name == "replace") {
        arguments.require(name, 3, {"old", "new", "count"});
        if (!arguments.get("old", 0) || !arguments.get("new", 1)) {
            refuse("replace() needs two texts");
        }
        return text_value(replace(text, arguments));
    }
    if (name == "format") {
        arguments.require(name, SIZE_MAX, {});
        return text_value(is_filter ? format_percent(text, arguments) : format_braces(text, arguments));
    }
    if (name == "startswith" || name == "endswith") {
        return has_end(name, text, arguments);
    }
    if (!is_filter) {
        return search_method(name, text, arguments);
    }
    if (name == "indent") {
        arguments.require(name, 3, {"width", "first", "blank"});
        return text_value(indent(text, arguments));
    }
    if (name == "length") {
        return jinja::mk_val<jinja::value_int>(static_cast<int64_t>(marked_text(text).characters().size()) - 1);
    }
    if (name == "int" || name == "float") {
        return number_of(name, text, arguments);
    }
    return std::nullopt;
}

}  // namespace livekv
