#!/bin/bash
# Everything that needs a GPU, in one command and under ten minutes on 16 cores, without a network: builds for the GPU
# at hand, runs the device's tests, the sanitizer on small ones, the benchmarks and the engine end to end.
#
#   tests/gpu/check.sh [folder for the report]        default: $OUT, else ./gpu-report
#
# Needs nvcc, cmake, a C++20 compiler, and .deps (what a CPU build has fetched). Leaves report.json, report.txt and
# log.txt, all of them after every step: a run that is cut short has what it got to. The most telling steps come first;
# ggml's CUDA backend is compiled beside them. Exit status: 0 when no step failed.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
report=${1:-${OUT:-$root/gpu-report}}
work=${LIVEKV_GPU_WORK:-$root/build-gpu}
limit=${LIVEKV_GPU_LIMIT:-580} # seconds, all in all
arch=${LIVEKV_GPU_ARCH:-90}
jobs=$(nproc)
mkdir -p "$report" "$work"
report=$(cd "$report" && pwd)
work=$(cd "$work" && pwd)
rm -f "$report"/report.* "$report/log.txt" "$work/steps.jsonl"
export PATH=$PATH:/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer
command -v ninja >/dev/null && export CMAKE_GENERATOR=Ninja
start=$SECONDS
failed=0

# step NAME LIMIT COMMAND...: one line in steps.jsonl; what it prints goes to the log, lines of JSON to the report.
step() {
    local name=$1 most=$2 left=$((limit - (SECONDS - start))) began=$SECONDS status
    shift 2
    [ "$left" -lt "$most" ] && most=$left
    if [ "$most" -lt 5 ]; then
        status=124
        : >"$work/$name.log"
    else
        timeout -k 5 "$most" bash -c '"$@"' step "$@" >"$work/$name.log" 2>&1
        status=$?
    fi
    { echo "==== $name: exit $status after $((SECONDS - began)) s"; tail -n 200 "$work/$name.log"; } >>"$report/log.txt"
    [ $status -ne 0 ] && [ $status -ne 77 ] && failed=1
    echo "{\"step\": \"$name\", \"exit\": $status, \"seconds\": $((SECONDS - began))}" >>"$work/steps.jsonl"
    grep -h '^{' "$work/$name.log" | sed "s/^{/{\"step\": \"$name\", /" >>"$work/steps.jsonl"
    python3 "$root/tests/gpu/report.py" "$work/steps.jsonl" "$report" || true
    return $status
}

facts() {
    nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
    nvcc --version | tail -n 2
    echo "$jobs cores, $(awk '/MemTotal/ {print int($2 / 1048576)}' /proc/meminfo) GiB"
    python3 -c "import torch; print('torch', torch.__version__)" || true
    toolkit=$(python3 "$root/tests/gpu/toolkit.py" "$work/toolkit") && echo "$toolkit" >"$work/toolkit.path"
    cat "$work/toolkit.path"
}

build_kernels() {
    cmake -S "$root/tests/gpu" -B "$work/kernels" -DCMAKE_CUDA_ARCHITECTURES="$arch" &&
        cmake --build "$work/kernels" -j "$jobs"
}

build_engine() {
    cmake -S "$root" -B "$work/engine" -DLIVEKV_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES="$arch" \
        -DCUDAToolkit_ROOT="$(cat "$work/toolkit.path")" -DLIVEKV_GPU_TESTS=ON &&
        nice cmake --build "$work/engine" -j "$jobs" --target livekv-cli livekv-bench livekv-perplexity bench_ggml \
            random_model
}

wait_for_engine() {
    while [ ! -e "$work/engine.status" ]; do sleep 1; done
    tail -n 40 "$work/engine-build.log"
    return "$(cat "$work/engine.status")"
}

sanitize() { # TOOL PROGRAM TESTS
    command -v compute-sanitizer >/dev/null || return 77
    LIVEKV_TESTS=$3 compute-sanitizer --tool "$1" --error-exitcode 9 "$work/kernels/$2"
}

# The shipped model says the same on both devices.
same_text() {
    local text="$root/tests/data/war-and-peace-opening.txt" model="$root/tests/models/story.gguf" bin="$work/engine/bin"
    for ngl in 0 99; do
        "$bin/livekv-cli" -m "$model" -f "$text" -n 100 --temp 0 -ngl $ngl >"$work/text-$ngl.txt" &&
            "$bin/livekv-perplexity" -m "$model" -f "$text" -c 1024 --windows 1 --kl-base f16 -ngl $ngl || return 1
    done
    cmp "$work/text-0.txt" "$work/text-99.txt" && echo '{"bench": "greedy text", "shape": "story", "same": true}'
}

# A file written on either device goes on on the other.
files() {
    local text="$root/tests/data/war-and-peace-opening.txt" model="$root/tests/models/story.gguf" bin="$work/engine/bin"
    for ngl in 0 99; do
        "$bin/livekv-cli" -m "$model" -f "$text" -n 0 -ngl $ngl --kv-save "$work/$ngl.kv" &&
            "$bin/livekv-cli" -m "$model" --kv-load "$work/$ngl.kv" -p " Then" -n 30 --temp 0 -ngl $((99 - ngl)) \
                >"$work/continued-$ngl.txt" || return 1
    done
    cmp "$work/continued-0.txt" "$work/continued-99.txt" && echo '{"bench": "files", "shape": "story", "same": true}'
}

engine_bench() { # NAME ARGUMENTS...
    local name=$1 sampler status
    shift
    nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits -lms 200 >"$work/$name.memory" &
    sampler=$!
    "$work/engine/bin/livekv-bench" -m "$work/random-8b.gguf" -ngl 99 -o json "$@" >"$work/$name.json"
    status=$?
    kill $sampler
    [ $status -eq 0 ] && python3 -c "
import json, sys
peak = max(int(line) for line in open(sys.argv[2]) if line.strip())
for r in json.load(open(sys.argv[1])):
    print(json.dumps({'bench': 'engine', 'shape': r['kv'], 'tokens': r['depth'], 'peak_MiB_of_step': peak} | r))" \
        "$work/$name.json" "$work/$name.memory"
}

export root work jobs arch
export -f facts build_kernels wait_for_engine sanitize same_text files engine_bench

step facts 60 facts
rm -f "$work/engine.status"
{
    build_engine >"$work/engine-build.log" 2>&1
    echo $? >"$work/engine.status"
} &
if step build-kernels 200 build_kernels; then
    step test-seal 60 "$work/kernels/test_seal"
    step test-classes 60 "$work/kernels/test_classes"
    step test-attention 60 "$work/kernels/test_attention"
    step bench-kernels 90 "$work/kernels/bench_kernels"
    step memcheck-seal 60 sanitize memcheck test_seal whole_chunks
    step memcheck-attention 60 sanitize memcheck test_attention sinks_warm_up
    step racecheck-attention 60 sanitize racecheck test_attention sinks_warm_up
    step racecheck-seal 60 sanitize racecheck test_seal whole_chunks
    step memcheck-classes 60 sanitize memcheck test_classes whole_chunks
    step racecheck-classes 60 sanitize racecheck test_classes whole_chunks
fi
step bench-torch 40 python3 "$root/tests/gpu/bench_torch.py"
if step build-engine 400 wait_for_engine; then
    step same-text 60 same_text
    step files 60 files
    step bench-ggml 40 "$work/engine/bin/bench_ggml"
    if step model-8b 60 "$work/engine/bin/random_model" "$work/random-8b.gguf"; then
        step engine-short 60 engine_bench short --kv f16,livekv -d 0,8192 -r 3 -n 32
        step engine-128k 200 engine_bench long --kv f16,livekv -d 131072 -r 2 -n 32
        step engine-1m 60 engine_bench million --kv livekv -d 1048576 --repeat-prompt 8192 -r 1 -n 32
    fi
fi
cat "$report/report.txt"
exit $failed
