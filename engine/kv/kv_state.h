#pragma once

// The numbers of the state after a chunk as they lie in its page, on the CPU and on the GPU: f32, but f16 where key
// channels have widths of their own. There the running statistics are rounded as they move (kv_ema.h, query_square.h),
// so that a sequence goes on from what is stored as if nothing had been stored.

#include <cstddef>
#include <cstdint>

#include "kv/f16.h"
#include "kv/host_device.h"
#include "kv/kv_method.h"

namespace livekv {

LIVEKV_HD inline bool state_is_f16(const kv_method & method) {
    return method.key_classes;
}
LIVEKV_HD inline size_t state_number_bytes(bool is_f16) {
    return is_f16 ? sizeof(uint16_t) : sizeof(float);
}

// Number i of a page.
LIVEKV_HD inline float state_number(const void * page, bool is_f16, size_t i) {
    return is_f16 ? f16_to_f32(static_cast<const uint16_t *>(page)[i]) : static_cast<const float *>(page)[i];
}
LIVEKV_HD inline void put_state_number(void * page, bool is_f16, size_t i, float x) {
    if (is_f16) {
        static_cast<uint16_t *>(page)[i] = f32_to_f16(x);
    } else {
        static_cast<float *>(page)[i] = x;
    }
}

// A running statistic as a page of f16 will have it.
LIVEKV_HD inline float f16_number(float x) {
    return f16_to_f32(f32_to_f16_finite(x));
}

}  // namespace livekv
