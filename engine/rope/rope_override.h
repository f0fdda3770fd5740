#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "error.h"
#include "rope/rope.h"

namespace livekv {

// What a user wants otherwise than the file says; fields that are not set leave the file's. What each may be and what
// it is for: rope_option_fields.h.
struct rope_override {
    std::optional<std::string> scaling = {};  // takes the place of the file's, its divisors included
    std::optional<double> scale = {};
    std::optional<double> base = {};
    std::optional<int64_t> yarn_orig_ctx = {};

    // Throws rope_option_error for a value out of its range, and for fields that nothing would read.
    void check() const;

    bool any() const { return scaling || scale || base || yarn_orig_ctx; }

    // The file's rope, changed. Throws rope_option_error for what does not fit to it.
    void apply(rope_params & rope) const;
};

// field: as for_each_rope_option calls it.
class rope_option_error : public error {
  public:
    rope_option_error(const std::string & option, const std::string & why)
        : error(option + ": " + why), field(option), problem(why) {}

    std::string field;
    std::string problem;
};

}  // namespace livekv
