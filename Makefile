# Two commands: `make demo` and `make test`. Everything they install goes into .venv, everything they build into build/.
PYTHON ?= python3
BUILD  ?= build
JOBS   ?= $(shell nproc)
CMAKE_ARGS ?=

# The Python package's extension needs Python's headers, which the tools can do without.
LIVEKV_PYTHON ?= $(shell $(PYTHON) -c "import os, sysconfig as s; \
    print('ON' if os.path.exists(os.path.join(s.get_path('include'), 'Python.h')) else 'OFF')")

VENV := .venv
BIN  := $(abspath $(VENV))/bin

export PATH := $(BIN):$(PATH)

.PHONY: demo models build test lint format longbench dev sanitize sanitize-python tsan fuzz clean

demo: build
	@tests/models/demo.sh $(BUILD)/bin

# The checkpoints that docs and tests have figures of, 0.85 GB, into models/.
models: $(VENV)/bin/python
	$(BIN)/python tests/models/fetch.py all

build: $(VENV)/build.ok
	cmake -G Ninja -S . -B $(BUILD) -DPython3_EXECUTABLE=$(BIN)/python -DLIVEKV_PYTHON=$(LIVEKV_PYTHON) $(CMAKE_ARGS)
	cmake --build $(BUILD) -j $(JOBS)

# Python's tests by file in two processes: many of them wait for one core.
test: build $(VENV)/test.ok
	ctest --test-dir $(BUILD) --output-on-failure
	LIVEKV_BUILD=$(BUILD) python -m pytest -q -n 2 --dist loadfile tests/python

# Style, and Python's types, which are checked against the packages of `make dev`. `make format` lays C++ and CUDA out.
CODE = $(shell git ls-files -co --exclude-standard '*.h' '*.cpp' '*.cu' '*.cuh')

lint: $(VENV)/lint.ok
	clang-format --dry-run --Werror $(CODE)
	ruff check
	ruff format --check bindings
	mypy

format: $(VENV)/lint.ok
	clang-format -i $(CODE)

# LongBench end to end, baseline and compressed, and the report. No downloads: DATA holds the benchmark's JSONL files.
MODEL ?= tests/models/story.gguf
KV    ?= f16,livekv
TASKS ?= all
DATA  ?= data/longbench
OUT   ?= results/longbench

longbench: build $(VENV)/eval.ok
	PYTHONPATH=$(BUILD)/python python -m python_eval.longbench --model $(MODEL) --tasks $(TASKS) --kv $(KV) \
	    --data-dir $(DATA) $(if $(LIMIT),--limit $(LIMIT)) --out $(OUT)
	PYTHONPATH=$(BUILD)/python python -m python_eval.report $(OUT) --out $(OUT).html

# The live references: torch, transformers and llama.cpp. With them installed, `make test` compares against them too.
dev: $(VENV)/dev.ok

# The unit tests under AddressSanitizer and UndefinedBehaviorSanitizer; not the emulated GPU, whose thousands of fibers take
# them minutes a test.
sanitize: $(VENV)/build.ok
	cmake -G Ninja -S . -B $(BUILD)-sanitize -DPython3_EXECUTABLE=$(BIN)/python -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	    -DLIVEKV_SANITIZE=address,undefined $(CMAKE_ARGS)
	cmake --build $(BUILD)-sanitize -j $(JOBS)
	ASAN_OPTIONS=allocator_may_return_null=1 ctest --test-dir $(BUILD)-sanitize --output-on-failure -E test_cuda

# Python's tests against the extension and the tools under both sanitizers. The interpreter is built without, so the
# sanitizer's library is loaded before it, and what it never gives back is no leak. An hour on two cores; PYTEST chooses
# tests. Those marked uninstrumented are skipped.
PYTEST ?= -n 2 --dist loadfile tests/python
sanitize-python: $(VENV)/test.ok
	cmake -G Ninja -S . -B $(BUILD)-sanitize -DPython3_EXECUTABLE=$(BIN)/python -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	    -DLIVEKV_SANITIZE=address,undefined -DLIVEKV_PYTHON=ON $(CMAKE_ARGS)
	cmake --build $(BUILD)-sanitize -j $(JOBS)
	LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libstdc++.so)" PYTHONMALLOC=malloc \
	    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 LIVEKV_BUILD=$(BUILD)-sanitize \
	    python -m pytest -q -o timeout=7200 $(PYTEST)

# What several threads do with sessions and engines, under ThreadSanitizer: about ten minutes on two cores, of which
# TSAN_TESTS=test_concurrency takes one and a half. No report is suppressed, ggml's neither.
TSAN_TESTS ?= test_session test_engine test_generation test_thread_team test_concurrency
tsan: $(VENV)/build.ok
	cmake -G Ninja -S . -B $(BUILD)-tsan -DPython3_EXECUTABLE=$(BIN)/python -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	    -DLIVEKV_SANITIZE=thread $(CMAKE_ARGS)
	cmake --build $(BUILD)-tsan -j $(JOBS) --target $(TSAN_TESTS)
	TSAN_OPTIONS=second_deadlock_stack=1:allocator_may_return_null=1 \
	    ctest --test-dir $(BUILD)-tsan --output-on-failure -R "^($(subst $(eval ) ,|,$(TSAN_TESTS)))$$"

# Each fuzz target for FUZZ_SECONDS, under libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer; needs clang.
export FUZZ_SECONDS ?= 60
fuzz: $(VENV)/build.ok
	JOBS=$(JOBS) tests/fuzz/run.sh $(BUILD)-fuzz

clean:
	rm -rf $(BUILD) $(BUILD)-sanitize $(BUILD)-tsan $(BUILD)-fuzz

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$@ -m pip install --quiet --disable-pip-version-check pip==25.3  # Debian 12's cannot read requirements/dev.txt

# llama.cpp as a reference needs its library only: no servers, tools or multimodal parts.
$(VENV)/dev.ok: export CMAKE_ARGS := -DLLAVA_BUILD=OFF -DLLAMA_BUILD_SERVER=OFF \
    -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_OPENSSL=OFF

$(VENV)/%.ok: requirements/%.txt $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@
