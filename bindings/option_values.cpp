#include "option_values.h"

#include <algorithm>
#include <sstream>
#include <vector>

#include "policy/kv_option_fields.h"
#include "policy/kv_option_table.h"
#include "values.h"

namespace livekv {

namespace {

template <typename Names>
std::string listed(const Names & names) {
    std::string text;
    for (const auto & name : names) {
        text += (text.empty() ? "" : ", ") + std::string(name);
    }
    return text;
}

bool is_word(py::handle value, const char * word) {
    return word && py::isinstance<py::str>(value) && value.cast<std::string>() == word;
}

// A number's message: "'x' is not same or a number in 0..0.1".
template <typename May>
std::string not_a(const char * kind, const May & may) {
    std::ostringstream text;
    text << " is not " << (may.word ? std::string(may.word) + " or " : "") << kind << " in " << may.min << ".."
         << may.max;
    return text.str();
}

// The place of a text among names. Throws kv_option_error.
template <typename Names>
size_t place_of(const char * field, py::handle value, const Names & names) {
    const auto found =
        py::isinstance<py::str>(value) ? std::find(names.begin(), names.end(), value.cast<std::string>()) : names.end();
    if (found == names.end()) {
        throw kv_option_error(field, shown(value) + " is not one of " + listed(names));
    }
    return static_cast<size_t>(found - names.begin());
}

// A field's value from Python, for each kind of field.
struct reader {
    const char * field;
    py::handle value;

    [[noreturn]] void refuse(const std::string & why) const { throw kv_option_error(field, shown(value) + why); }

    void operator()(int64_t & target, const kv_whole & may) const {
        const auto number = whole_from(value);
        if (!number && !is_word(value, may.word)) {
            refuse(not_a("a whole number", may));
        }
        // The number that stands for a word is no value of its own.
        if (number && may.word && *number == may.word_value) {
            refuse(not_a("a whole number", may));
        }
        target = number ? *number : may.word_value;
    }
    void operator()(double & target, const kv_real & may) const {
        const auto number = real_from(value);
        if ((!number && !is_word(value, may.word)) || (number && may.word && *number == may.word_value)) {
            refuse(not_a("a number", may));
        }
        target = number ? *number : may.word_value;
    }
    void operator()(int64_t & target, kv_width) const {
        const auto number = whole_from(value);
        if (!number || std::ranges::find(kv_stream_widths, *number) == kv_stream_widths.end()) {
            refuse(" is not one of " + listed_numbers());
        }
        target = *number;
    }
    void operator()(std::array<int64_t, 3> & target, kv_levels) const {
        std::string text = py::isinstance<py::str>(value) ? value.cast<std::string>() : "";
        if (py::isinstance<py::tuple>(value) || py::isinstance<py::list>(value)) {
            for (const py::handle width : value) {
                text += text.empty() ? "" : ",";
                text += std::to_string(whole_from(width).value_or(-1));
            }
        }
        try {
            target = parse_kv_levels(text);
        } catch (const error &) {
            refuse(" is not three of 16, 8, 5, 4, 3, 2; the last may be 0");
        }
    }
    void operator()(std::string & target, kv_file_name) const {
        if (!py::isinstance<py::str>(value)) {
            refuse(" is no name of a file");
        }
        target = value.cast<std::string>();
    }
    void operator()(bool & target, kv_on_off) const { target = truth(); }
    void operator()(bool & target, const kv_switch &) const { target = truth(); }
    template <typename E>
    void operator()(E & target, kv_one_of) const {
        target = static_cast<E>(place_of(field, value, names_of(target)));
    }
    void operator()(kv_bits & target, kv_widths) const {
        if (py::isinstance<py::str>(value)) {  // as a spec has it: "4,3"
            try {
                target = parse_kv_bits(value.cast<std::string>());
            } catch (const error & problem) {
                throw kv_option_error(field, problem.what());
            }
            return;
        }
        py::sequence widths = py::make_tuple(value);
        if (py::isinstance<py::tuple>(value) || py::isinstance<py::list>(value)) {
            widths = py::reinterpret_borrow<py::sequence>(value);
        }
        std::vector<int64_t> bits;
        for (const py::handle width : widths) {
            bits.push_back(whole_from(width).value_or(0));
            const auto & all = kv_code_widths;
            if (std::find(all.begin(), all.end(), bits.back()) == all.end()) {
                bits.clear();
                break;
            }
        }
        if (bits.empty() || bits.size() > 2) {
            refuse(" is not one or two of 2, 3, 4, 5 and 8");
        }
        target = {bits.front(), bits.back()};
    }

    static std::string listed_numbers() {
        std::string text;
        for (const int64_t width : kv_stream_widths) {
            text += (text.empty() ? "" : ", ") + std::to_string(width);
        }
        return text;
    }

    bool truth() const {
        if (!py::isinstance<py::bool_>(value)) {
            refuse(" is not one of True, False");
        }
        return value.cast<bool>();
    }
};

py::object value_of(int64_t number, const kv_whole & may) {
    return may.word && number == may.word_value ? py::object(py::str(may.word)) : py::object(py::int_(number));
}
py::object value_of(double number, const kv_real & may) {
    return may.word && number == may.word_value ? py::object(py::str(may.word)) : py::object(py::float_(number));
}
py::object value_of(int64_t number, kv_width) {
    return py::int_(number);
}
py::object value_of(const std::array<int64_t, 3> & levels, kv_levels) {
    return py::make_tuple(levels[0], levels[1], levels[2]);
}
py::object value_of(const std::string & name, kv_file_name) {
    return py::str(name);
}
py::object value_of(bool on, kv_on_off) {
    return py::bool_(on);
}
py::object value_of(bool on, const kv_switch &) {
    return py::bool_(on);
}
template <typename E>
py::object value_of(const E & one, kv_one_of) {
    return py::str(names_of(one)[static_cast<size_t>(one)]);
}
py::object value_of(const kv_bits & bits, kv_widths) {
    return bits.k == bits.v ? py::object(py::int_(bits.k)) : py::object(py::make_tuple(bits.k, bits.v));
}

}  // namespace

kv_options kv_options_from(const py::dict & values, const std::optional<std::string> & preset) {
    kv_options o;
    py::dict unknown(values.attr("copy")());
    const auto take = [&](const char * field) {
        return unknown.contains(field) ? py::object(unknown.attr("pop")(field)) : py::object();
    };
    if (const py::object policy = take("policy")) {
        o.policy = kv_policy_names()[place_of("policy", policy, kv_policy_names())];
    }
    if (preset) {
        require_read(o.policy, "preset");
        apply_kv_preset(*preset, o);
    }
    for_each_kv_option([&](const char * field, auto member, const auto & may, const char *) {
        if (const py::object value = take(field)) {
            reader{field, value}(o.*member, may);
        }
    });
    for (const auto & [name, value] : unknown) {
        fail("there is no cache option ", shown(name), "; livekv.kv_options_table() lists them");
    }
    o.check();
    return o;
}

py::dict values_of(const kv_options & options) {
    py::dict values;
    values["policy"] = options.policy;
    for_each_kv_option([&](const char * field, auto member, const auto & may, const char *) {
        values[field] = value_of(options.*member, may);
    });
    return values;
}

}  // namespace livekv
