#pragma once

// Keys and values as they are stored in rows: rotated, then f16. Internal linkage.

#include "kernels/cpu/rotate_rows.h"
#include "kv/kv_block.h"

namespace livekv {
namespace {

inline bool store_row(const float * from, uint16_t * to, size_t n, int32_t head_dim, int32_t rotation) {
    if (rotation < 2) {
        return lanes::to_f16(from, to, n);
    }
    bool finite = true;
    float head[kv_max_head_dim];
    const size_t d = static_cast<size_t>(head_dim);
    for (size_t at = 0; at < n; at += d) {
        __builtin_memcpy(head, from + at, d * sizeof(float));
        rotate_rows(head, head_dim, rotation, 1);
        finite &= lanes::to_f16(head, to + at, d);
    }
    return finite;
}

}  // namespace
}  // namespace livekv
