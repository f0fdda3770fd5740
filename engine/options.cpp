#include "options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <sstream>

namespace livekv {

namespace {

template <typename T>
std::string to_text(const T & value) {
    std::ostringstream out;
    out << value;
    return out.str();
}

// The shortest text that reads back as the same number.
std::string to_text(double value) {
    char text[32];
    return {text, std::to_chars(text, text + sizeof(text), value).ptr};
}

template <typename T>
std::string joined(const std::vector<T> & values, const char * separator) {
    std::string text;
    for (const T & value : values) {
        text += text.empty() ? "" : separator;
        text += to_text(value);
    }
    return text;
}

std::vector<std::string> split(const std::string & list) {
    std::vector<std::string> parts;
    std::istringstream in(list);
    for (std::string part; std::getline(in, part, ',');) {
        parts.push_back(part);
    }
    return parts;
}

[[noreturn]] void refuse(const std::string & name, const std::string & value, const std::string & expected) {
    throw usage_error(name + ": '" + value + "' is not " + expected);
}

template <typename T>
T number(const std::string & name, const std::string & value, T min, T max, const std::string & range) {
    T result{};
    const char * end = value.data() + value.size();
    const auto [stopped, problem] = std::from_chars(value.data(), end, result);
    if (problem != std::errc() || stopped != end || !(result >= min && result <= max)) {
        refuse(name, value, (std::is_integral_v<T> ? "a whole number in " : "a number in ") + range);
    }
    return result;
}

std::string member(const std::string & name, const std::string & value, const std::vector<std::string> & allowed) {
    const auto found = std::find(allowed.begin(), allowed.end(), value);
    if (found == allowed.end()) {
        refuse(name, value, "one of " + joined(allowed, ", "));
    }
    return *found;
}

std::string range_text(int64_t min, int64_t max) {
    return max == INT64_MAX ? to_text(min) + " or more" : to_text(min) + ".." + to_text(max);
}

std::string range_text(double min, double max) {
    return std::isinf(max) ? to_text(min) + " or more" : to_text(min) + ".." + to_text(max);
}

}  // namespace

option & option_table::add(const std::string & names, const std::string & value, const std::string & initial,
                           const std::string & range, const std::string & help) {
    option o;
    const size_t comma = names.find(',');  // "-c,--ctx" or "--stats"
    o.short_name = comma == std::string::npos ? "" : names.substr(0, comma);
    o.name = comma == std::string::npos ? names : names.substr(comma + 1);
    o.value = value;
    o.initial = initial;
    o.range = range;
    o.help = help;
    o.group = group_;
    options_.push_back(o);
    return options_.back();
}

void option_table::flag(const std::string & names, bool & target, const std::string & help) {
    add(names, "", "", "", help).set = [&target](const std::string &) { target = true; };
}

void option_table::integer(const std::string & names, int64_t & target, int64_t min, int64_t max,
                           const std::string & help) {
    option & o = add(names, "N", to_text(target), range_text(min, max), help);
    o.set = [&target, min, max, name = o.name, range = o.range](const std::string & value) {
        target = number(name, value, min, max, range);
    };
}

void option_table::real(const std::string & names, double & target, double min, double max, const std::string & help) {
    option & o = add(names, "X", to_text(target), range_text(min, max), help);
    o.set = [&target, min, max, name = o.name, range = o.range](const std::string & value) {
        target = number(name, value, min, max, range);
    };
}

void option_table::text(const std::string & names, std::string & target, const std::string & value,
                        const std::string & help) {
    option & o = add(names, value, target, "", help);
    o.set = [&target, name = o.name, value](const std::string & typed) {
        if (typed.empty()) {
            throw usage_error(name + ": there is no " + value + " in ''");
        }
        target = typed;
    };
}

void option_table::text(const std::string & names, std::optional<std::string> & target, const std::string & value,
                        const std::string & help) {
    add(names, value, "", "", help).set = [&target](const std::string & typed) { target = typed; };
}

void option_table::choice(const std::string & names, std::string & target, const std::vector<std::string> & allowed,
                          const std::string & help) {
    option & o = add(names, "NAME", target, joined(allowed, "|"), help);
    o.set = [&target, allowed, name = o.name](const std::string & value) { target = member(name, value, allowed); };
}

void option_table::integer(const std::string & names, std::optional<int64_t> & target, int64_t min, int64_t max,
                           const std::string & help) {
    option & o = add(names, "N", "", range_text(min, max), help);
    o.set = [&target, min, max, name = o.name, range = o.range](const std::string & value) {
        target = number(name, value, min, max, range);
    };
}

void option_table::real(const std::string & names, std::optional<double> & target, double min, double max,
                        const std::string & help) {
    option & o = add(names, "X", "", range_text(min, max), help);
    o.set = [&target, min, max, name = o.name, range = o.range](const std::string & value) {
        target = number(name, value, min, max, range);
    };
}

void option_table::choice(const std::string & names, std::optional<std::string> & target,
                          const std::vector<std::string> & allowed, const std::string & help) {
    option & o = add(names, "NAME", "", joined(allowed, "|"), help);
    o.set = [&target, allowed, name = o.name](const std::string & value) { target = member(name, value, allowed); };
}

void option_table::toggle(const std::string & names, bool & target, const std::string & help) {
    option & o = add(names, "on|off", target ? "on" : "off", "", help);
    o.set = [&target, name = o.name](const std::string & value) {
        target = member(name, value, {"on", "off"}) == "on";
    };
}

void option_table::integer_or(const std::string & names, int64_t & target, const std::string & word, int64_t word_value,
                              int64_t min, int64_t max, const std::string & help) {
    option & o =
        add(names, "N", target == word_value ? word : to_text(target), word + " or " + range_text(min, max), help);
    o.set = [&target, word, word_value, min, max, name = o.name, range = o.range](const std::string & value) {
        target = value == word ? word_value : number(name, value, min, max, range);
    };
}

void option_table::real_or(const std::string & names, double & target, const std::string & word, double word_value,
                           double min, double max, const std::string & help) {
    option & o =
        add(names, "X", target == word_value ? word : to_text(target), word + " or " + range_text(min, max), help);
    o.set = [&target, word, word_value, min, max, name = o.name, range = o.range](const std::string & value) {
        target = value == word ? word_value : number(name, value, min, max, range);
    };
}

void option_table::preset(const std::string & names, const std::vector<std::string> & allowed,
                          const std::function<void(const std::string &)> & apply, const std::string & help) {
    option & o = add(names, "NAME", "", joined(allowed, "|"), help);
    o.first = true;
    o.set = [allowed, apply, name = o.name](const std::string & value) { apply(member(name, value, allowed)); };
}

void option_table::integers(const std::string & names, std::vector<int64_t> & target, int64_t min, int64_t max,
                            const std::string & help) {
    option & o = add(names, "N,N,...", joined(target, ","), range_text(min, max), help);
    o.set = [&target, min, max, name = o.name, range = o.range](const std::string & value) {
        target.clear();
        for (const std::string & part : split(value)) {
            target.push_back(number(name, part, min, max, range));
        }
        if (target.empty()) {
            refuse(name, value, "a list of numbers");
        }
    };
}

void option_table::choices(const std::string & names, std::vector<std::string> & target,
                           const std::vector<std::string> & allowed, const std::string & help) {
    option & o = add(names, "NAME,...", joined(target, ","), joined(allowed, "|"), help);
    o.set = [&target, allowed, name = o.name](const std::string & value) {
        target.clear();
        for (const std::string & part : split(value)) {
            target.push_back(member(name, part, allowed));
        }
        if (target.empty()) {
            refuse(name, value, "a list of names");
        }
    };
}

void option_table::custom(const std::string & names, const std::string & value, const std::string & initial,
                          const std::string & range, const std::string & help,
                          const std::function<void(const std::string &)> & set) {
    option & o = add(names, value, initial, range, help);
    o.set = [set, name = o.name](const std::string & typed) {
        try {
            set(typed);
        } catch (const error & problem) {
            throw usage_error(name + ": " + problem.what());
        }
    };
}

void option_table::since(int version, const std::string & meant) {
    options_.back().since = version;
    options_.back().unspoken = meant;
}

void option_table::require(const std::function<bool(const std::string &)> & holds, const std::string & what) {
    option & o = options_.back();
    o.set = [set = o.set, holds, what, name = o.name](const std::string & value) {
        set(value);
        if (!holds(value)) {
            refuse(name, value, what);
        }
    };
}

const option & option_table::find(const std::string & name) const {
    for (const option & o : options_) {
        if (name == o.name || (!o.short_name.empty() && name == o.short_name)) {
            return o;
        }
    }
    throw usage_error("unknown option '" + name + "'; --help lists them");
}

bool option_table::parse(int argc, const char * const * argv) {
    std::vector<std::pair<const option *, std::string>> given;
    given_.clear();
    for (int i = 1; i < argc; ++i) {
        std::string name = argv[i];
        if (name == "-h" || name == "--help") {
            return false;
        }
        std::string value;
        const size_t equals = name.find('=');
        const bool attached = name.rfind("--", 0) == 0 && equals != std::string::npos;  // --kv=f16
        if (attached) {
            value = name.substr(equals + 1);
            name.resize(equals);
        }
        const option & o = find(name);
        if (o.value.empty() && attached) {
            throw usage_error(name + " takes no value");
        }
        if (!o.value.empty() && !attached) {
            if (i + 1 == argc) {
                throw usage_error(name + " needs a value");
            }
            value = argv[++i];
        }
        given.emplace_back(&o, value);
        given_.push_back(o.name);
    }
    for (const bool first : {true, false}) {
        for (const auto & [o, value] : given) {
            if (o->first == first) {
                o->set(value);
            }
        }
    }
    return true;
}

std::string option_table::help_text() const {
    std::ostringstream out;
    std::string current;
    for (const option & o : options_) {
        if (o.group != current) {
            current = o.group;
            out << "\n" << current << ":\n";
        }
        std::string left = "  " + (o.short_name.empty() ? "" : o.short_name + ", ") + o.name;
        left += o.value.empty() ? "" : " " + o.value;
        out << left << std::string(left.size() < 29 ? 30 - left.size() : 1, ' ') << o.help;
        std::string facts = o.range;
        if (!o.initial.empty()) {
            facts += (facts.empty() ? "default " : "; default ") + o.initial;
        }
        out << (facts.empty() ? "" : " (" + facts + ")") << "\n";
    }
    return out.str();
}

}  // namespace livekv
