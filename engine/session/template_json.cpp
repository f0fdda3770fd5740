// Values as JSON, as Python's json.dumps writes it.

#include <jinja/runtime.h>

#include <algorithm>
#include <cmath>

#include "session/template_text.h"
#include "utf8.h"

namespace livekv {

namespace {

using jinja::value;

std::string json_of(std::string_view character, bool ensure_ascii) {
    switch (character[0]) {
        case '"':
            return "\\\"";
        case '\\':
            return "\\\\";
        case '\n':
            return "\\n";
        case '\r':
            return "\\r";
        case '\t':
            return "\\t";
        case '\b':
            return "\\b";
        case '\f':
            return "\\f";
        default:
            break;
    }
    const char32_t code = code_point(character);
    if (code >= 0x20 && (!ensure_ascii || code < 0x80)) {
        return std::string(character);
    }
    if (code < 0x10000) {
        return escape("\\u", 4, code);
    }
    return escape("\\u", 4, 0xD800 + ((code - 0x10000) >> 10)) + escape("\\u", 4, 0xDC00 + ((code - 0x10000) & 0x3FF));
}

std::string json_number(double x) {
    return std::isnan(x) ? "NaN" : std::isinf(x) ? (x < 0 ? "-Infinity" : "Infinity") : float_repr(x);
}

class json_writer {
  public:
    explicit json_writer(const json_form & form) : form_(form) {}

    void write(const value & v, int depth) {
        if (jinja::is_val<jinja::value_string>(v)) {
            write_text(v->val_str);
        } else if (jinja::is_val<jinja::value_array>(v)) {
            append_bytes(out, "[");
            for (size_t i = 0; i < v->val_arr.size(); ++i) {
                begin_item(i == 0, depth + 1);
                write(v->val_arr[i], depth + 1);
            }
            end(v->val_arr.empty(), depth, "]");
        } else if (jinja::is_val<jinja::value_object>(v)) {
            append_bytes(out, "{");
            auto items = v->val_obj;
            if (form_.sort_keys) {
                std::ranges::stable_sort(items, {}, [](const auto & item) { return python_str(item.first).str(); });
            }
            for (size_t i = 0; i < items.size(); ++i) {
                begin_item(i == 0, depth + 1);
                write_key(items[i].first);
                append_bytes(out, form_.key_separator);
                write(items[i].second, depth + 1);
            }
            end(items.empty(), depth, "}");
        } else if (v->is_none()) {
            append_bytes(out, "null");
        } else if (jinja::is_val<jinja::value_bool>(v)) {
            append_bytes(out, v->as_bool() ? "true" : "false");
        } else if (jinja::is_val<jinja::value_float>(v)) {
            append_bytes(out, json_number(v->val_flt));
        } else if (jinja::is_val<jinja::value_int>(v)) {
            append_bytes(out, std::to_string(v->val_int));
        } else {
            throw jinja::raised_exception("it writes as JSON what is " +
                                          std::string(v->is_undefined() ? "undefined" : "a function"));
        }
    }

    jinja::string out;

  private:
    void write_text(const jinja::string & text) {
        append_quoted(out, text, '"', [&](std::string_view c) { return json_of(c, form_.ensure_ascii); });
    }
    void write_key(const value & key) {
        if (jinja::is_val<jinja::value_string>(key)) {
            write_text(key->val_str);
        } else {
            append_bytes(out, "\"");
            write(key, 0);
            append_bytes(out, "\"");
        }
    }
    void break_line(int depth) {
        if (form_.indent >= 0) {
            append_bytes(out, "\n" + std::string(static_cast<size_t>(form_.indent) * static_cast<size_t>(depth), ' '));
        }
    }
    void begin_item(bool first, int depth) {
        append_bytes(out, first ? "" : form_.item_separator);
        break_line(depth);
    }
    void end(bool empty, int depth, const char * bracket) {
        if (!empty) {
            break_line(depth);
        }
        append_bytes(out, bracket);
    }

    const json_form & form_;
};

}  // namespace

jinja::string python_json(const value & v, const json_form & form) {
    json_writer writer(form);
    writer.write(v, 0);
    return std::move(writer.out);
}

}  // namespace livekv
