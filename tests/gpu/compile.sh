#!/bin/sh
# Compiles and links the GPU's kernels, their tests and benchmarks for sm_80 and sm_90; runs nothing. Needs nvcc, no GPU.
#
#   tests/gpu/compile.sh [build folder] [architectures]
#
# Exit code 77: skipped, with the reason.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${1:-"$root/build-gpu"}
nvcc=${CUDACXX:-$(command -v nvcc || true)}
if [ -z "$nvcc" ]; then
    echo "skipped: no nvcc"
    exit 77
fi
cmake -S "$root/tests/gpu" -B "$build" -DCMAKE_CUDA_COMPILER="$nvcc" -DCMAKE_CUDA_ARCHITECTURES="${2:-80;90}"
cmake --build "$build" -j "${JOBS:-$(nproc)}"
