"""The rooms of engine/ and who may include whom (CONTRIBUTING.md): arrows point only downward."""

from __future__ import annotations

import re

# From the bottom up, the public header among them. A room may include itself and those before it.
ROOMS = ["base", "rope", "kv", "kernels", "model", "memory", "store", "policy", "run", "graph", "chunks", "engine", "session",
         "livekv.h", "cli"]
# ggml is known where tensors and files are: not in the tokenizers, the sessions' logic or the tools.
KNOW_GGML = {"model", "store", "run", "graph"}


def includes(root):
    for path in sorted((root / "engine").rglob("*")):
        if path.suffix in {".h", ".cpp", ".cu", ".cuh"}:
            room = path.relative_to(root / "engine").parts[0]
            room = room if room in ROOMS else "base"
            for quoted, bracketed in re.findall(r'^#include (?:"([^"]+)"|<([^>]+)>)', path.read_text(), re.M):
                yield path, room, quoted, bracketed


def test_includes_point_only_downward(root):
    upward = []
    for path, room, quoted, _ in includes(root):
        if quoted:
            target = quoted.split("/")[0] if "/" in quoted or quoted in ROOMS else "base"
            assert target in ROOMS, f"{path}: {quoted} is in no known room"
            if ROOMS.index(target) > ROOMS.index(room):
                upward.append(f"{path.name} ({room}) includes {quoted}")
    assert not upward, upward


# What tools and bindings include beside the public header and their own: each file's reasons.
BESIDE_THE_PUBLIC_HEADER = {
    "options.h": "the command line",
    "atomic_file.h": "files that are whole or untouched",
    "file_in_use.h": "and none of them is one that is read",
    "utf8.h": "text from outside",
    "default_threads.h": "what no -t means",
    "graph/cpu_features.h": "a program built for another CPU says so before it does anything",
    "policy/kv_option_fields.h": "cache options are declared from the visitor",
    "policy/kv_option_table.h": "and called as there",
    "session/sampling_fields.h": "sampling options likewise",
    "rope/rope_option_fields.h": "and those of rotary positions",
    "cli/main.cpp policy/saved_options.h": "a saved cache's options against those asked for",
    "cli/repeat_chunks.cpp run/chunked_cache.h": "the bench fills a cache with copies of its chunks",
    "bindings/module.cpp model/ggml_log.h": "ggml is silent in Python",
    "bindings/shared_model.h fork_gate.h": "a child of fork opens sessions, whatever other threads of its parent did",
    "bindings/model.cpp kernels/cpu/kernels.h": "build_info names the kernels",
    "bindings/dump.h store/kv_dump.h": "a layer taken apart",
    "bindings/text.cpp session/stop_strings.h": "text from tokens for those who step engines themselves",
    "bindings/streams.cpp kv/kv_quant.h": "livekv.kv seals arrays by the specification",
    "bindings/streams.cpp kv/kv_classes.h": "and keys by classes of width",
    "bindings/guided.cpp kv/guided_layer.h": "or a layer's by a guide",
    "bindings/fastkv.cpp kv/kv_fastkv.h": "or by the last tokens",
    "bindings/finch.cpp kv/finch_layer.h": "or by a question",
    "bindings/kvquant.cpp kv/kv_kvquant.h": "or by a calibration",
    "bindings/kvquant.cpp store/kv_calibration.h": "which is a file",
}


def test_tools_and_bindings_include_the_public_header_and_little_else(root):
    beside = set()
    for folder in (root / "engine" / "cli", root / "bindings"):
        for path in [*folder.glob("*.h"), *folder.glob("*.cpp")]:
            place = f"{folder.name}/{path.name}"
            for header in re.findall(r'^#include "([^"]+)"', path.read_text(), re.M):
                own = header.startswith("cli/") if folder.name == "cli" else (folder / header).exists()
                if header != "livekv.h" and not own:
                    beside.add(header if header in BESIDE_THE_PUBLIC_HEADER else f"{place} {header}")
    assert beside == BESIDE_THE_PUBLIC_HEADER.keys()


def test_the_public_header_is_a_page_and_its_example_a_program(root):
    header = (root / "engine" / "livekv.h").read_text()
    assert len(header.splitlines()) <= 200
    example = "\n".join(re.findall(r"^//(?: (    .*))?$", header, re.M)).strip("\n")
    assert example.count("\n") > 20
    program = (root / "tests" / "tools" / "embed.cpp").read_text()
    assert example in program
    assert re.findall(r'^#include "([^"]+)"', program, re.M) == ["livekv.h"]


def test_only_these_rooms_know_ggml(root):
    others = [f"{p.name}: {h}" for p, room, _, h in includes(root) if re.match(r"gg(ml|uf)", h) and room not in KNOW_GGML]
    assert not others, others


def test_an_architecture_is_spelled_out_in_its_own_file_only(root):
    """Its keys, its layers' tensors and what they are called, or beside it where several share them."""
    spelled = re.compile(r'^(?!\s*//).*"(llama\.|attn_|ffn_|[QKV]cur)', re.M)
    sources = [path for path in (root / "engine").rglob("*") if path.suffix in {".h", ".cpp"}]
    table = (root / "engine" / "model" / "arch" / "arch.cpp").read_text()
    own = {f"{name}.cpp" for name in re.findall(r"extern const architecture (\w+);", table)}
    assert len(own) >= 4
    spelling = {path.name for path in sources if spelled.search(path.read_text())}
    assert spelling - own == {"decoder_layer.cpp"}, spelling


def test_only_the_tools_print(root):
    printing = re.compile(r"std::c(out|err)|\bf?printf\(|\bputs\(|\babort\(|\bexit\(")
    guilty = [
        str(path)
        for path in (root / "engine").rglob("*.cpp")
        if "cli" not in path.parts and printing.search(path.read_text())
    ]
    assert not guilty, guilty
