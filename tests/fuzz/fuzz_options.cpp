// The first byte chooses who reads the rest: the command line of livekv-cli, a table with options of every kind, a text
// that says a cache's options, or the options of a saved sequence. Lines are arguments. What can be read is then what
// it says: an accepted text gives options that pass their own check.

#include <cstdint>
#include <string>
#include <vector>

#include "cli/cli_options.h"
#include "options.h"
#include "policy/kv_spec.h"
#include "policy/saved_options.h"
#include "target.h"

namespace {

std::vector<std::string> lines_of(const std::string & text) {
    std::vector<std::string> lines = {""};
    for (const char c : text) {
        if (c == '\n') {
            lines.emplace_back();
        } else if (c != '\0') {  // ends an argument of a process
            lines.back() += c;
        }
    }
    return lines;
}

// Throws usage_error; false when it asks for help.
bool parse(livekv::option_table & table, const std::vector<std::string> & arguments) {
    std::vector<const char *> argv = {"tool"};
    for (const std::string & argument : arguments) {
        argv.push_back(argument.c_str());
    }
    return table.parse(static_cast<int>(argv.size()), argv.data());
}

void must_be_right(const livekv::kv_options & options) {
    try {
        options.check();
    } catch (const livekv::error & problem) {
        fuzz::require(false, problem.what());
    }
}

// Tables are declared once: that takes far longer than reading arguments with them.
void as_command_line(const std::vector<std::string> & arguments) {
    static livekv::cli_options target;
    static livekv::option_table table = [] {
        livekv::option_table t;
        target.declare(t);
        return t;
    }();
    static const livekv::cli_options initial = target;
    target = initial;
    if (!parse(table, arguments)) {
        return;
    }
    target.check(table);
    target.generation();
    must_be_right(target.engine.params(target.n_ctx, target.engine.kv.policy).kv);
    fuzz::require(target.seed >= 0, "no seed was drawn");
    fuzz::require(target.n_ctx >= 0 && target.n_ctx <= INT32_MAX, "a number out of its range");
}

struct every_kind {
    bool flag = false;
    bool toggle = false;
    int64_t whole = 3;
    int64_t whole_or = -1;
    double real = 0.5;
    double real_or = -1.0;
    std::string text;
    std::string choice = "one";
    std::vector<int64_t> wholes = {1};
    std::vector<std::string> choices = {"one"};

    void declare(livekv::option_table & table) {
        table.flag("-f,--flag", flag, "");
        table.toggle("-t,--toggle", toggle, "");
        table.integer("-i,--integer", whole, -7, 70, "");
        table.require([this](const std::string &) { return whole % 7 != 1; }, "not one more than a multiple of seven");
        table.integer_or("-w,--integer-or", whole_or, "none", -1, 0, INT64_MAX, "");
        table.real("-r,--real", real, -0.5, 1e300, "");
        table.real_or("-q,--real-or", real_or, "none", -1.0, 0.0, 1.0, "");
        table.text("--text", text, "TEXT", "");
        table.choice("-c,--choice", choice, {"one", "two"}, "");
        table.integers("-n,--integers", wholes, -2, 2, "");
        table.choices("-m,--choices", choices, {"one", "two", "three"}, "");
    }
};

void as_every_kind(const std::vector<std::string> & arguments) {
    static every_kind is;
    static livekv::option_table table = [] {
        livekv::option_table t;
        is.declare(t);
        return t;
    }();
    is = every_kind();
    if (!parse(table, arguments)) {
        return;
    }
    fuzz::require(is.whole >= -7 && is.whole <= 70 && is.whole % 7 != 1, "an integer out of its range");
    fuzz::require(is.whole_or >= -1, "an integer out of its range, or the word");
    fuzz::require(is.real >= -0.5 && is.real <= 1e300, "a number out of its range");
    fuzz::require(is.real_or == -1.0 || (is.real_or >= 0.0 && is.real_or <= 1.0),
                  "a number out of its range, or the word");
    fuzz::require(is.choice == "one" || is.choice == "two", "a name that is none of those allowed");
    fuzz::require(!is.wholes.empty() && !is.choices.empty(), "an empty list");
    for (const int64_t n : is.wholes) {
        fuzz::require(n >= -2 && n <= 2, "a list's integer out of its range");
    }
}

void as_saved_options(const std::vector<std::string> & lines) {
    static const livekv::kv_texts usual = livekv::texts_of(livekv::kv_options());
    livekv::kv_texts texts = usual;
    for (const std::string & line : lines) {
        const size_t equals = line.find('=');
        if (equals == std::string::npos) {
            texts.erase(line);
        } else {
            texts[line.substr(0, equals)] = line.substr(equals + 1);
        }
    }
    for (const uint32_t version : {2u, 3u}) {
        const livekv::kv_options options = livekv::options_from(texts, version);
        const livekv::kv_texts said = livekv::texts_of(options);
        fuzz::require(livekv::texts_of(livekv::options_from(said, 3)) == said, "options that are not what they say");
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    if (size == 0) {
        return 0;
    }
    const std::string rest(reinterpret_cast<const char *>(data) + 1, size - 1);
    const fuzz::limits limit(size);
    try {
        switch (data[0]) {
            case 's':
                must_be_right(livekv::parse_kv_spec(rest));
                break;
            case 'f':
                as_saved_options(lines_of(rest));
                break;
            case 'k':
                as_every_kind(lines_of(rest));
                break;
            default:
                as_command_line(lines_of(rest));
        }
    } catch (const livekv::error & problem) {
        fuzz::expected(problem, data, size);
    }
    return 0;
}
