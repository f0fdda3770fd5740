#pragma once

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace livekv {

// Whether this CPU converts between f16 and f32 by itself: __builtin_cpu_supports of older clangs does not know.
static inline bool cpu_has_f16c() {
#if defined(__x86_64__)
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
#else
    return false;
#endif
}

}  // namespace livekv
