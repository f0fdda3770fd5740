#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace livekv {

struct vocab;

// Finds tokens that are written out in a text: user-defined ones always, control ones inside given spans.
class special_tokens {
  public:
    explicit special_tokens(const vocab & tokens);  // keeps a reference

    // Offsets in a text between which control tokens count; in order, without overlap.
    struct span {
        size_t begin;
        size_t end;
    };

    struct match {
        size_t begin;
        size_t end;
        int32_t id;
    };

    // The first one at or behind from, of several at one place the longest; begin is text.size() when there is none.
    match find(std::string_view text, size_t from, std::span<const span> control) const;

  private:
    const vocab & tokens_;
    std::array<std::vector<int32_t>, 256> by_first_byte_;  // longest first
};

}  // namespace livekv
