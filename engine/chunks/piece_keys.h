#pragma once

#include <cstdint>
#include <span>

#include "model/fingerprint.h"
#include "policy/kv_options.h"

namespace livekv {

// The names of a sequence's pieces, one after the other: each is a hash of the model, the form of what is stored, the
// options, the pieces before it and its tokens.
class piece_keys {
  public:
    piece_keys(const model_facts & model, const kv_options & options);

    uint64_t next(std::span<const int32_t> tokens);

  private:
    uint64_t last_;
};

}  // namespace livekv
