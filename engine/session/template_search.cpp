// The methods of Python's str that look for a text in another, and part it there.

#include <algorithm>
#include <iterator>
#include <utility>

#include "session/template_strings.h"
#include "session/template_text.h"

namespace livekv {

namespace {

using jinja::value;

constexpr const char * methods[] = {"find",      "rfind",      "index",        "count",        "splitlines",
                                    "partition", "rpartition", "removeprefix", "removesuffix", "join"};

value number(int64_t n) {
    return jinja::mk_val<jinja::value_int>(n);
}

// How many characters there are before a byte.
int64_t characters_before(const marked_text & text, size_t byte) {
    const std::vector<size_t> at = text.characters();
    return std::ranges::lower_bound(at, byte) - at.begin();
}

int64_t count_of(const marked_text & text, const std::string & wanted) {
    if (wanted.empty()) {
        return static_cast<int64_t>(text.characters().size());
    }
    int64_t n = 0;
    for (size_t at = 0; (at = text.str().find(wanted, at)) != std::string::npos; at += wanted.size()) {
        ++n;
    }
    return n;
}

value partition(const marked_text & text, const jinja::string & separator, bool from_end) {
    const std::string mark = separator.str();
    if (mark.empty()) {
        refuse("empty separator");
    }
    const size_t at = from_end ? text.str().rfind(mark) : text.str().find(mark);
    std::vector<value> parts;
    if (at == std::string::npos) {
        parts = {text_value({}), text_value({})};
        parts.insert(from_end ? parts.end() : parts.begin(), text_value(text.whole()));
    } else {
        parts = {text_value(text.cut(0, at)), text_value(separator),
                 text_value(text.cut(at + mark.size(), text.str().size()))};
    }
    return jinja::mk_val<jinja::value_tuple>(std::move(parts));
}

value split_lines(const marked_text & text) {
    std::vector<value> lines;
    for (const stretch & line : lines_of(text)) {
        lines.push_back(text_value(text.cut(line.from, line.to)));
    }
    if (lines.back()->val_str.length() == 0) {  // behind the last line break
        lines.pop_back();
    }
    return jinja::mk_val<jinja::value_array>(std::move(lines));
}

}  // namespace

bool is_own_method(const std::string & name) {
    return std::ranges::find(methods, name) != std::end(methods);
}

std::optional<value> search_method(const std::string & name, const jinja::string & of,
                                   const given_arguments & arguments) {
    if (!is_own_method(name) || name == "join") {
        return std::nullopt;
    }
    const marked_text text(of);
    const std::string & whole = text.str();
    arguments.require(name, name == "splitlines" ? 0 : 1, {});
    if (name == "splitlines") {
        return split_lines(text);
    }
    const jinja::string & given = text_of(arguments.get("", 0), name);
    const std::string wanted = given.str();
    if (name == "partition" || name == "rpartition") {
        return partition(text, given, name == "rpartition");
    }
    if (name == "count") {
        return number(count_of(text, wanted));
    }
    if (name == "removeprefix") {
        return text_value(text.cut(whole.starts_with(wanted) ? wanted.size() : 0, whole.size()));
    }
    if (name == "removesuffix") {
        return text_value(text.cut(0, whole.size() - (whole.ends_with(wanted) ? wanted.size() : 0)));
    }
    const size_t at = name == "rfind" ? whole.rfind(wanted) : whole.find(wanted);
    if (at == std::string::npos && name == "index") {
        refuse("substring not found");
    }
    return number(at == std::string::npos ? -1 : characters_before(text, at));
}

}  // namespace livekv
