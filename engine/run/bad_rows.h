#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

namespace livekv {

// The first layer, and in it the first row of a pass, with a query, key or value that is not a number or too large to
// be stored. Softmax, rounding to integers and bounds would make finite results of it.
class bad_rows {
  public:
    struct place {
        int64_t il;
        int64_t row;
    };

    void clear() { first_ = none; }
    void note(int64_t il, int64_t row);  // by any thread
    bool any() const { return first_ != none; }
    std::optional<place> first() const;

    // Throws livekv::error about a token of layer il.
    [[noreturn]] static void refuse(int64_t il, int64_t position);

  private:
    static constexpr int64_t none = INT64_MAX;
    std::atomic<int64_t> first_{none};  // layer << 32 | row
};

}  // namespace livekv
