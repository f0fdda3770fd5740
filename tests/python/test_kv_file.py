"""--kv-save and --kv-load: a run cut in two says what one run says, and a file that cannot be trusted is refused."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import convert_hf
import gguf
import pytest
import tiny_models
from conftest import assert_refused
from tiny_models import SHAPES

GREEDY = ("--temp", "0", "-t", "1", "--ignore-eos", "--chunk-size", "32", "--warmup-chunks", "1")
PROMPT = "It was a bright cold day and the clocks were striking. " * 3  # past several chunks


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model, the same with other bytes for weights or one token of another name, and one of another shape that begins
    texts with a token."""
    folder = tmp_path_factory.mktemp("kv")
    tiny_models.make(folder / "one", SHAPES["gqa_hd64"])
    tiny_models.make(folder / "other", SHAPES["hd8"])
    convert_hf.convert(folder / "one", folder / "one.gguf", "f16")
    convert_hf.convert(folder / "one", folder / "q8.gguf", "q8_0")
    convert_hf.convert(folder / "other", folder / "other.gguf", "f16")
    renamed = (folder / "one.gguf").read_bytes().replace(b"[PAD319]", b"[PAD_19]")
    assert renamed != (folder / "one.gguf").read_bytes()
    (folder / "renamed.gguf").write_bytes(renamed)
    return {name: folder / f"{name}.gguf" for name in ("one", "q8", "renamed", "other")}


@pytest.fixture
def cli(tools, models):
    def run(*arguments: object, m="one") -> subprocess.CompletedProcess:
        command = [tools.bin_dir / "livekv-cli", "-m", models[m], *map(str, arguments)]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=120)

    return run


@pytest.fixture
def saved(cli, tmp_path):
    path = tmp_path / "saved.kv"
    done = cli("-p", PROMPT, "-n", 5, "--kv-save", path, *GREEDY)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["saved.kv"]  # no temporary is left
    return path


@pytest.mark.parametrize("options", [(), ("--bypass-layers", 1, "--bypass-type", "f16"), ("--seal-decode", "off")])
def test_a_run_cut_in_two_says_what_one_run_says(cli, tmp_path, options):
    path = tmp_path / "x.kv"
    stats = tmp_path / "s.json"
    whole = cli("-p", PROMPT, "-n", 60, "--stats", stats, *GREEDY, *options)
    assert whole.returncode == 0, whole.stderr
    expected = json.loads(stats.read_text())["logits_hash"]
    said = cli("-p", PROMPT, "-n", 20, "--kv-save", path, *GREEDY, *options).stdout[:-1]  # without the line's end
    said += cli("-n", 25, "--kv-load", path, "--kv-save", path, *GREEDY).stdout[:-1]
    last = cli("-n", 15, "--kv-load", path, "--stats", stats, *GREEDY)
    assert last.returncode == 0, last.stderr
    # A character that a cut falls into is shown broken on both sides; the logits tell without that.
    assert json.loads(stats.read_text())["logits_hash"] == expected
    if b"\xef\xbf\xbd" not in whole.stdout + said + last.stdout:
        assert said + last.stdout == whole.stdout


def test_more_text_is_appended_without_a_new_beginning(cli, tools, models, tmp_path):
    path = tmp_path / "x.kv"
    stats = tmp_path / "s.json"
    more = tmp_path / "more.txt"
    more.write_text(" and then")
    assert cli("-p", PROMPT, "-n", 5, "--kv-save", path, *GREEDY, m="other").returncode == 0
    from_file = cli("-f", more, "-n", 5, "--kv-load", path, "--stats", stats, *GREEDY, m="other")
    from_argument = cli("-p", " and then", "-n", 5, "--kv-load", path, *GREEDY, m="other")
    assert from_file.returncode == 0 and from_file.stdout == from_argument.stdout
    first, space, *rest = tools.tokenize(models["other"], " and then")  # space: that which begins every text
    assert first == 1 and json.loads(stats.read_text())["n_prompt"] == len(rest)


def test_the_files_options_hold_and_others_are_named(cli, saved, tmp_path):
    stats = tmp_path / "s.json"
    quiet = cli("-n", 5, "--kv-load", saved, "--temp", 0, "-t", 1, "--ignore-eos", "--stats", stats)
    assert quiet.returncode == 0 and b"warning" not in quiet.stderr
    assert json.loads(stats.read_text())["options"]["chunk_size"] == 32
    loud = cli("-n", 5, "--kv-load", saved, "--temp", 0, "-t", 1, "--ignore-eos", "--chunk-size", 64, "--kv", "f16")
    assert loud.stdout == quiet.stdout
    assert b"the saved cache has --chunk-size 32; 64 is ignored" in loud.stderr
    assert b"the saved cache has --kv livekv; f16 is ignored" in loud.stderr


def test_a_context_that_is_too_short_is_refused(cli, saved):
    done = cli("-n", 5, "-c", 20, "--kv-load", saved, *GREEDY)
    assert_refused(done, 1, "the context only 20")


def test_a_model_of_which_one_row_or_one_number_is_another_is_another_model(tools, models, saved, tmp_path):
    def load(m: Path, path: Path) -> subprocess.CompletedProcess:
        command = [tools.bin_dir / "livekv-cli", "-m", m, "-n", "1", "--kv-load", path, *GREEDY]
        return subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, timeout=120)

    whole = bytearray(models["one"].read_bytes())
    reader = gguf.GGUFReader(models["one"])
    embedding = next(t for t in reader.tensors if t.name == "token_embd.weight")
    whole[int(embedding.data_offset) + int(embedding.n_bytes) // 2] ^= 1  # the last bits of a number in the middle
    (tmp_path / "row.gguf").write_bytes(whole)
    assert load(models["one"], saved).returncode == 0
    message = "made with another model: the shape is the same, the weights are not"
    assert_refused(load(tmp_path / "row.gguf", saved), 1, message)

    for name, scalar in (("as_it_is", 16), ("scaled", 20)):  # nothing but what scores are multiplied by
        config = tiny_models.make(tmp_path / name, SHAPES["gemma3"]) / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "query_pre_attn_scalar": scalar}))
        convert_hf.convert(tmp_path / name, tmp_path / f"{name}.gguf", "f16")
    command = [tools.bin_dir / "livekv-cli", "-m", tmp_path / "as_it_is.gguf", "-p", PROMPT, "-n", 1, "--kv-save",
               tmp_path / "gemma.kv", *GREEDY]  # fmt: skip
    assert subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
    assert load(tmp_path / "as_it_is.gguf", tmp_path / "gemma.kv").returncode == 0
    assert_refused(load(tmp_path / "scaled.gguf", tmp_path / "gemma.kv"), 1, message)


def test_files_that_cannot_be_trusted_are_refused_with_the_reason(cli, saved, models, tmp_path):
    good = saved.read_bytes()
    bad = tmp_path / "bad.kv"

    def load(content: bytes, **options):
        bad.write_bytes(content)
        return cli("-n", 5, "--kv-load", bad, *GREEDY, **options)

    assert load(good).returncode == 0
    assert_refused(load(good, m="other"), 1, "bad.kv': made with another model: its ")
    assert_refused(load(good, m="q8"), 1, "made with another model: the shape is the same, the weights are not")
    assert_refused(load(good, m="renamed"), 1, "another model: the weights are the same, the vocabulary is not")
    changed = cli("-n", 5, "--kv-load", saved, "--rope-base", 500, *GREEDY)
    assert_refused(changed, 1, "made with other rotary positions: rope_freq_base was 10000, here it is 500")
    changed = cli("-n", 5, "--kv-load", saved, "--rope-scaling", "yarn", "--rope-scale", 4, *GREEDY)
    assert_refused(changed, 1, "made with other rotary positions: RoPE was scaled otherwise")
    scaled = tmp_path / "scaled.kv"
    assert cli("-p", "x", "-n", 5, "--kv-save", scaled, "--rope-scaling", "yarn", "--rope-scale", 4, *GREEDY).returncode == 0
    assert_refused(cli("-n", 5, "--kv-load", scaled, *GREEDY), 1, "rotary positions: RoPE was scaled otherwise")
    os.mkfifo(tmp_path / "fifo")
    assert_refused(cli("-n", 5, "--kv-load", tmp_path / "fifo"), 1, "fifo' is not a file")
    for n in (10, 1000, len(good) // 2, len(good) - 1):
        assert_refused(load(good[:n]), 1, "bad.kv")
    edited = bytearray(good)
    edited[len(good) - 1000] ^= 1
    assert_refused(load(bytes(edited)), 1, "its checksum is wrong: the file was changed or damaged")
    other_version = bytearray(good)
    other_version[good.index(b"livekv.file_version") + len(b"livekv.file_version") + 4] = 8
    assert_refused(load(bytes(other_version)), 1, "written by a newer livekv (file version 8, this one reads 2 to 7)")
    other_version[good.index(b"livekv.file_version") + len(b"livekv.file_version") + 4] = 1
    assert_refused(load(bytes(other_version)), 1, "written by an older livekv (file version 1, this one reads 2 to 7)")
    assert_refused(load(models["one"].read_bytes()), 1, "not a saved cache")
    assert_refused(load(b"some text"), 1, "not a GGUF file")
    assert_refused(cli("-p", "x", "--kv-load", tmp_path / "none.kv"), 1, "No such file")


@pytest.mark.parametrize(
    "arguments, part",
    [
        (["--kv-save", "x.kv", "-cnv"], "neither -cnv nor --tokenize"),
        (["--kv-load", "x.kv", "-cnv"], "neither -cnv nor --tokenize"),
        (["--kv-load", "x.kv", "--tokenize"], "neither -cnv nor --tokenize"),
        (["--kv-save", "x.kv", "--kv", "q8_0"], "not --kv q8_0"),
        (["--kv-save", "-"], "need a file, not -"),
    ],
)
def test_combinations_that_make_no_sense_are_usage_errors(cli, arguments, part):
    assert_refused(cli("-p", "x", *arguments), 2, part)


def test_an_unwritable_file_is_refused_before_anything_runs(cli, tmp_path):
    assert_refused(cli("-p", "x", "--kv-save", tmp_path / "no" / "folder.kv"), 1, "cannot write")
    assert_refused(cli("-p", "x", "--kv-save", "/dev/null"), 1, "it is not a file")


def test_a_killed_run_leaves_the_old_file_or_the_new_one(cli, tools, models, saved):
    old = saved.read_bytes()
    found = set()
    rng = random.Random(1)
    command = [tools.bin_dir / "livekv-cli", "-m", models["one"], "-n", 3, "--kv-load", saved, "--kv-save", saved, *GREEDY]
    took = 0.3
    for _ in range(25):
        saved.write_bytes(old)
        started = time.monotonic()
        with subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                process.wait(timeout=rng.uniform(0.0, 1.2 * took))
                took = time.monotonic() - started
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
        found.add(saved.read_bytes())
    assert old in found and len(found) <= 2
    for content in found:
        saved.write_bytes(content)
        assert cli("-n", 1, "--kv-load", saved, *GREEDY).returncode == 0
