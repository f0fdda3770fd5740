#!/bin/sh
# Builds the fuzz targets with clang, libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer, and runs each for
# FUZZ_SECONDS (60), two at a time: three quarters of that with inputs of up to 2000 bytes, of which there are many
# more in a second, where a target has use for them.
#
#   tests/fuzz/run.sh [build folder] [target ...]
#
# With FUZZ_ASAN=OFF, in a build folder of its own, they are built without AddressSanitizer: two to five times as many
# inputs in the same time, of which those that reach new code are kept for a run with it.
#
# With FUZZ_SEED, the inputs are those of an earlier run with the same number, as far as the time goes.
#
# New inputs are kept in BUILD/tests/fuzz/found/NAME, from where a later run goes on; what fails lies in BUILD/tests/fuzz/failed.
# Exit code 77: skipped, with the reason.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${1:-"$root/build-fuzz"}
[ $# -eq 0 ] || shift
entry='extern "C" int LLVMFuzzerTestOneInput(const unsigned char *, unsigned long) { return 0; }'
if ! echo "$entry" | clang++ -x c++ -fsanitize=fuzzer,address,undefined -o /dev/null - 2> /dev/null; then
    echo "skipped: no clang++ with libFuzzer"
    exit 77
fi
PATH="$root/.venv/bin:$PATH"
cmake -G Ninja -S "$root" -B "$build" -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ -DLIVEKV_FUZZ=ON \
    -DLIVEKV_FUZZ_ASAN="${FUZZ_ASAN:-ON}" -DPython3_EXECUTABLE="$(command -v python3)"
cmake --build "$build" -j "${JOBS:-$(nproc)}" --target fuzzers
work="$build/tests/fuzz"
"$build/bin/fuzz_seeds" "$work/seeds"
mkdir -p "$work/failed"

# An input may take its own size and 64 MiB of memory, and ten seconds of the processor (target.h). libFuzzer's own
# timeout goes by the wall's clock, which says little on a busy machine: it is there for what never ends.
export ASAN_OPTIONS=quarantine_size_mb=16:malloc_context_size=0
malloc_limit=-malloc_limit_mb=100
[ "${FUZZ_ASAN:-ON}" = ON ] || malloc_limit=

seed=${FUZZ_SEED:-$(date +%s)}

# NAME SECONDS MAX_LEN
libfuzzer() {
    "$build/bin/fuzz_$1" -max_total_time="$2" -max_len="$3" -timeout=200 -report_slow_units=200 \
        $malloc_limit -rss_limit_mb=1024 -entropic=0 -seed="$seed" -dict="$root/tests/fuzz/dict/$1.dict" -print_final_stats=1 \
        -artifact_prefix="$work/failed/$1-" \
        "$work/found/$1" "$root/tests/fuzz/corpus/$1" "$work/seeds/$1"
}

run_one() {
    name=$1
    seconds=${FUZZ_SECONDS:-60}
    log="$work/$name.log"
    mkdir -p "$work/found/$name" "$work/seeds/$name"
    status=0
    if [ "$name" = jsonl ]; then
        PYTHONPATH="$root" python3 "$root/tests/fuzz/fuzz_jsonl.py" --seconds "$seconds" --seed "$seed" \
            > "$log" 2>&1 || status=$?
    else
        case $name in
            gguf | kv_file) small=0 ;; # their files are what they are
            *) small=$((seconds * 3 / 4)) ;;
        esac
        if [ "$small" -gt 0 ]; then
            libfuzzer "$name" "$small" 2000 > "$log" 2>&1 || status=$?
        else
            : > "$log"
        fi
        [ $status -ne 0 ] || libfuzzer "$name" $((seconds - small)) 50000 >> "$log" 2>&1 || status=$?
    fi
    if [ $status -ne 0 ]; then
        tail -n 60 "$log"
        echo "$name: failed"
    else
        counts=$(grep -a -E '^stat::number_of_executed_units|executions' "$log" | tr -s ' ' | cut -d: -f1-4)
        echo "$name: $(echo "$counts" | paste -sd ' ')"
    fi
    return $status
}

[ $# -gt 0 ] || set -- gguf tokenizer kv_file chat options jsonl
failed=0
while [ $# -gt 0 ]; do
    run_one "$1" &
    first=$!
    shift
    second=
    if [ $# -gt 0 ]; then
        run_one "$1" &
        second=$!
        shift
    fi
    wait $first || failed=1
    [ -z "$second" ] || wait $second || failed=1
done
exit $failed
