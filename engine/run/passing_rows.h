#pragma once

#include <span>

#include "run/chunked_cache.h"

namespace livekv {

// Rows that are needed for a pass alone, those of chunks that fill in it: all layers share them.
class passing_rows {
  public:
    // Gives the steps of caches, whose pass over these layers has begun, room for theirs. Throws std::bad_alloc.
    void place(std::span<chunked_cache * const> caches, layer_run layers);

    size_t bytes() const { return on_host_.bytes() + on_device_.bytes(); }

  private:
    raw_rows on_host_;  // of the layer being computed
    raw_rows on_device_;
};

}  // namespace livekv
