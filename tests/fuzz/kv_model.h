#pragma once

// The model whose saved sequences are fuzzed, that of tests/fixtures/cache-v2.kv.

#include "../unit/tiny_sequences.h"

namespace fuzz {

inline std::shared_ptr<livekv::engine> kv_engine() {
    static const auto e = std::make_shared<livekv::engine>(tiny_sequences::tiny_model(), /*n_threads=*/1);
    return e;
}

inline livekv::session_params kv_params() {
    livekv::session_params p;
    p.n_ctx = 400;
    return p;
}

}  // namespace fuzz
