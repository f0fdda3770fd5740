#include "graph/cpu_features.h"

#include <ggml-cpu.h>

#include "cpu_f16c.h"

namespace livekv {

namespace {

// All that ggml was compiled for, or those of it that this machine lacks.
std::string features(bool only_missing) {
    std::string list;
    [[maybe_unused]] const auto add = [&](const char * name, int compiled, int here) {
        if (compiled && (!only_missing || !here)) {
            list += (list.empty() ? "" : ", ") + std::string(name);
        }
    };
#if defined(LIVEKV_X86)
    __builtin_cpu_init();
    add("ssse3", ggml_cpu_has_ssse3(), __builtin_cpu_supports("ssse3"));
    add("avx", ggml_cpu_has_avx(), __builtin_cpu_supports("avx"));
    add("avx2", ggml_cpu_has_avx2(), __builtin_cpu_supports("avx2"));
    add("bmi2", ggml_cpu_has_bmi2(), __builtin_cpu_supports("bmi2"));
    add("f16c", ggml_cpu_has_f16c(), cpu_has_f16c());
    add("fma", ggml_cpu_has_fma(), __builtin_cpu_supports("fma"));
    add("avx512f", ggml_cpu_has_avx512(), __builtin_cpu_supports("avx512f"));
    add("avx512vbmi", ggml_cpu_has_avx512_vbmi(), __builtin_cpu_supports("avx512vbmi"));
    add("avx512vnni", ggml_cpu_has_avx512_vnni(), __builtin_cpu_supports("avx512vnni"));
    add("avx512bf16", ggml_cpu_has_avx512_bf16(), __builtin_cpu_supports("avx512bf16"));
#endif
    return list;
}

}  // namespace

std::string missing_cpu_features() {
    return features(true);
}
std::string compiled_cpu_features() {
    return features(false);
}

}  // namespace livekv
