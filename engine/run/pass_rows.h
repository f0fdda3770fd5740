#pragma once

#include <span>
#include <string>
#include <vector>

#include "run/chunked_cache.h"

namespace livekv {

// Which rows of a pass are whose, layer by layer: a part's become fewer where tokens do not go on (policy guided,
// propagate layers).
class pass_rows {
  public:
    void clear();
    // Of caches whose pass over these layers has begun, one part each, in this order.
    void place(std::span<chunked_cache * const> caches, layer_run layers);

    // Of layer il, whose rows are n(): a part's first one, and a row's part.
    int64_t n(int64_t il) const { return at(il).first.back(); }
    int64_t first(int64_t il, size_t part) const { return at(il).first[part]; }
    size_t part_of(int64_t il, int64_t row) const { return at(il).part_of[static_cast<size_t>(row)]; }

    // Whether the layer after this one has fewer.
    bool change_after(int64_t il) const;
    // Which rows these are, then the rows of the pass that are no part's: to[n(il + 1) and those]. Of a pass that
    // failed they may be any, but rows they are.
    void write_going_on(int64_t il, std::span<int32_t> to) const;
    // Equal where the numbers of rows are.
    std::string key() const;

  private:
    struct layout {
        std::vector<int64_t> first = {0};  // [n_parts + 1], ascending
        std::vector<size_t> part_of;       // [n rows]
    };
    const layout & at(int64_t il) const { return layouts_[of_layer_[static_cast<size_t>(il)]]; }

    std::vector<chunked_cache *> caches_;  // [n_parts]
    std::vector<layout> layouts_ = {{}};
    std::vector<size_t> of_layer_;  // [end of the layers]
};

}  // namespace livekv
