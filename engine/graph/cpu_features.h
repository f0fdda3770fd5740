#pragma once

#include <string>

namespace livekv {

// The instructions ggml was compiled for (LIVEKV_GGML_CPU) that this machine lacks, "avx2, fma" or "". Asked before
// anything is computed: a build for another machine would die of an illegal instruction.
std::string missing_cpu_features();

// The same list of what it was compiled for.
std::string compiled_cpu_features();

}  // namespace livekv
