#include <cstdlib>
#include <cstring>

#include "cpu_f16c.h"
#include "error.h"
#include "kernels/cpu/kernels.h"

namespace livekv {

namespace {

bool runs_here(const cpu_kernels & k) {
#if defined(LIVEKV_X86)
    __builtin_cpu_init();
    if (&k == &avx2_kernels) {
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && cpu_has_f16c();
    }
    if (&k == &avx512_kernels) {
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vnni");
    }
#endif
    return &k == &generic_kernels;
}

// From the fastest to the one that runs everywhere.
const cpu_kernels * const levels[] = {
#if defined(LIVEKV_X86)
    &avx512_kernels,
    &avx2_kernels,
#endif
    &generic_kernels,
};

const cpu_kernels & choose() {
    const char * wanted = std::getenv("LIVEKV_CPU");
    if (!wanted || !*wanted) {
        for (const cpu_kernels * k : levels) {
            if (runs_here(*k)) {
                return *k;
            }
        }
    }
    const cpu_kernels * k = find_cpu_kernels(wanted);
    if (!k) {
        fail("LIVEKV_CPU=", wanted, ": this machine runs none of that name; there are generic, avx2 and avx512");
    }
    return *k;
}

}  // namespace

const cpu_kernels * find_cpu_kernels(const char * name) {
    for (const cpu_kernels * k : levels) {
        if (std::strcmp(k->name, name) == 0) {
            return runs_here(*k) ? k : nullptr;
        }
    }
    return nullptr;
}

const cpu_kernels & best_cpu_kernels() {
    static const cpu_kernels & chosen = choose();
    return chosen;
}

}  // namespace livekv
