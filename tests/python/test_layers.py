"""The rooms of engine/ and who may include whom (CONTRIBUTING.md): arrows point only downward."""

from __future__ import annotations

import re

# From the bottom up, the public header among them. A room may include itself and those before it.
ROOMS = ["base", "model", "kv", "kernels", "memory", "store", "policy", "run", "graph", "engine", "session", "livekv.h",
         "cli"]
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


def test_only_these_rooms_know_ggml(root):
    others = [f"{p.name}: {h}" for p, room, _, h in includes(root) if re.match(r"gg(ml|uf)", h) and room not in KNOW_GGML]
    assert not others, others


def test_an_architecture_is_spelled_out_in_its_own_file_only(root):
    """Its keys, its layers' tensors and what they are called."""
    spelled = re.compile(r'^(?!\s*//).*"(llama\.|attn_|ffn_|[QKV]cur)', re.M)
    sources = [path for path in (root / "engine").rglob("*") if path.suffix in {".h", ".cpp"}]
    assert [path.name for path in sources if spelled.search(path.read_text())] == ["llama.cpp"]


def test_only_the_tools_print(root):
    printing = re.compile(r"std::c(out|err)|\bf?printf\(|\bputs\(|\babort\(|\bexit\(")
    guilty = [
        str(path)
        for path in (root / "engine").rglob("*.cpp")
        if "cli" not in path.parts and printing.search(path.read_text())
    ]
    assert not guilty, guilty
