#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>

#include "model/symbol_merger.h"

namespace livekv {

struct vocab;

// Which two tokens merge into which third, by rank.
class merge_table {
  public:
    // Reads tokens.merges and keeps no reference. Throws livekv::error for a merge that is not two tokens which
    // together are a third.
    explicit merge_table(const vocab & tokens);

    bool empty() const { return merges_.empty(); }
    std::optional<symbol_merger::merge> find(int32_t left, int32_t right) const;

  private:
    std::unordered_map<uint64_t, symbol_merger::merge> merges_;  // by both ids
};

}  // namespace livekv
