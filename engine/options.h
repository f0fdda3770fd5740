#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "error.h"

namespace livekv {

// A mistake in how a tool was called; the tools exit with 2.
class usage_error : public error {
  public:
    using error::error;
};

struct option {
    std::string name;        // "--chunk-size"
    std::string short_name;  // "-c", or empty
    std::string value;       // what help calls the value, empty for a switch
    std::string initial;     // the default as text, empty when there is none
    std::string range;       // "1..512" or "f16|q8_0", empty for any
    std::string help;
    std::string group;
    std::function<void(const std::string &)> set;  // throws usage_error
    bool first = false;                            // set before those that are not
    int since = 0;         // the version of what carries options that had it first; 0: all had it
    std::string unspoken;  // what an older one means, as text
};

// The options of one tool, each declared once: name, default (the target's value when it is declared), range, help and
// group. Parsing, --help and the metadata of a run all derive from it. Targets must outlive the table.
class option_table {
  public:
    // Options declared from here on belong to this group.
    void group(const std::string & title) { group_ = title; }

    void flag(const std::string & names, bool & target, const std::string & help);
    void integer(const std::string & names, int64_t & target, int64_t min, int64_t max, const std::string & help);
    void real(const std::string & names, double & target, double min, double max, const std::string & help);
    void text(const std::string & names, std::string & target, const std::string & value, const std::string & help);
    // The same, and empty as long as the option was not given.
    void text(const std::string & names, std::optional<std::string> & target, const std::string & value,
              const std::string & help);
    void choice(const std::string & names, std::string & target, const std::vector<std::string> & allowed,
                const std::string & help);
    // The same three, and empty as long as the option was not given.
    void integer(const std::string & names, std::optional<int64_t> & target, int64_t min, int64_t max,
                 const std::string & help);
    void real(const std::string & names, std::optional<double> & target, double min, double max,
              const std::string & help);
    void choice(const std::string & names, std::optional<std::string> & target,
                const std::vector<std::string> & allowed, const std::string & help);
    // A switch with a value: on or off.
    void toggle(const std::string & names, bool & target, const std::string & help);
    // A number, or a word that stands for word_value, which is outside min..max.
    void integer_or(const std::string & names, int64_t & target, const std::string & word, int64_t word_value,
                    int64_t min, int64_t max, const std::string & help);
    void real_or(const std::string & names, double & target, const std::string & word, double word_value, double min,
                 double max, const std::string & help);
    // Names a set of values for other options: applied before all of them, wherever it stands.
    void preset(const std::string & names, const std::vector<std::string> & allowed,
                const std::function<void(const std::string &)> & apply, const std::string & help);
    // Comma-separated lists; never empty after parsing one.
    void integers(const std::string & names, std::vector<int64_t> & target, int64_t min, int64_t max,
                  const std::string & help);
    void choices(const std::string & names, std::vector<std::string> & target, const std::vector<std::string> & allowed,
                 const std::string & help);

    // What the caller reads and writes itself, e.g. an enumerator: `set` throws error, which is said with the option's
    // name.
    void custom(const std::string & names, const std::string & value, const std::string & initial,
                const std::string & range, const std::string & help,
                const std::function<void(const std::string &)> & set);

    // The option declared last came with this version of what carries options; an older one means `meant`.
    void since(int version, const std::string & meant);

    // Adds a condition to the option declared last: holds(value as typed) must be true, or parsing says "must be what".
    void require(const std::function<bool(const std::string &)> & holds, const std::string & what);

    // Sets the targets. Returns false when -h or --help was among the arguments. Throws usage_error.
    bool parse(int argc, const char * const * argv);

    std::string help_text() const;
    const std::vector<option> & all() const { return options_; }

    // Names of the options that the last parse was given, in their order.
    const std::vector<std::string> & given() const { return given_; }

  private:
    option & add(const std::string & names, const std::string & value, const std::string & initial,
                 const std::string & range, const std::string & help);
    const option & find(const std::string & name) const;

    std::vector<option> options_;
    std::vector<std::string> given_;
    std::string group_;
};

}  // namespace livekv
