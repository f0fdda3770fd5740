"""Records that people copied, joined and edited: a clear line with file and number, and no other comparison."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

livekv = pytest.importorskip("livekv", reason="the livekv package is not built")
pytest.importorskip("tqdm", reason="requirements/eval.txt is not installed")

import longbench_runs  # noqa: E402

from python_eval import perplexity  # noqa: E402
from python_eval.cache_profile import main as cache_profile  # noqa: E402
from python_eval.longbench.__main__ import main as longbench  # noqa: E402
from python_eval.retrieval.__main__ import main as retrieval  # noqa: E402
from python_eval.tools.__main__ import main as tools  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
STORY = ROOT / "tests" / "models" / "story.gguf"
TINY = ROOT / "tests" / "models" / "tiny.gguf"
TEXT = ROOT / "tests" / "data" / "war-and-peace-opening.txt"
RETRIEVAL = ["--model", TINY, "--lengths", 256, "--depths", "0,1", "--tasks", "multi_key,single_key", "--samples", 1,
             "--threads", 1]  # fmt: skip
OF_TEXT = ["--data", TEXT, "--n-ctx", 128, "--threads", 1, "--kv", "f16,q8_0"]
RUNS = {
    "retrieval": (retrieval, [*RETRIEVAL, "--kv", "f16,q8_0"], "answers"),
    "tools": (
        tools,
        ["--model", TINY, "--kv", "f16,q8_0", "--lengths", 1024, "--depths", "0,1", "--contexts", 1, "--functions", 2,
         "--others", 1, "--threads", 1],
        "answers",
    ),
    "perplexity": (perplexity.main, ["--model", STORY, *OF_TEXT, "--windows", 2], "windows"),
    "cache_profile": (cache_profile, ["--model", STORY, *OF_TEXT], "growth"),
    "longbench": (
        longbench,
        ["--model", STORY, "--kv", "f16,q8_0", "--data-dir", "DATA", "--tasks", "trec", "--threads", 1, "--batch", 2,
         "--n-ctx", 256],
        "predictions/q8_0/trec",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    longbench_runs.write_samples(folder / "data")
    return folder


@pytest.fixture
def folder(base, tmp_path):
    """A copy of the finished run of a tool, which is made once, and what runs its command there again."""

    def of(name: str):
        main, command, records = RUNS[name]

        def run(out: Path) -> int:
            return main([str(base / "data" if one == "DATA" else one) for one in (*command, "--out", out)])

        if not (base / name).exists():
            assert run(base / name) == 0
        shutil.copytree(base / name, tmp_path / "run")
        return tmp_path / "run" / f"{records}.jsonl", lambda: run(tmp_path / "run")

    return of


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in records))


WITHOUT = {"retrieval": ("length", "kv", "last"), "tools": ("context", "answers"), "perplexity": ("text", "nll_mean"),
           "cache_profile": ("label", "bytes"), "longbench": ("index", "pred", "kv_bytes")}  # fmt: skip
OTHER = [
    ("retrieval", {"kv": "f1v"}, "this run has no cache f1v"),
    ("retrieval", {"context": 99}, "this run has no context 99"),
    ("retrieval", {"length": 512}, "'length' is 512, context 0 of this run has 256"),
    ("retrieval", {"task": "passkey"}, "'task' is passkey, context 0 of this run has multi_key"),
    ("retrieval", {"depth": 0.3}, "has no question at depth 0.3"),
    ("retrieval", {"correct": 1}, "'correct' is 1, expected true or false"),
    ("retrieval", {"depth": float("nan")}, "'depth' is NaN, expected"),
    ("tools", {"kv": "f1v"}, "this run has no context 0 of 1024 tokens for f1v"),
    ("tools", {"answers": [{"depth": 0}]}, "'call' is missing"),
    ("tools", {"answers": []}, "the answers are not of the depths [0.0, 1.0]"),
    ("perplexity", {"text": "another"}, "this run has no window 0 of another"),
    ("perplexity", {"window": 7}, "this run has no window 7 of "),
    ("perplexity", {"window": True}, "'window' is true, expected a whole number"),
    ("cache_profile", {"bytes": None}, "'bytes' is null, expected an object"),
    ("longbench", {"index": 99}, "this run has no sample 99 of trec"),
    ("longbench", {"index": "0"}, "'index' is \"0\", expected a whole number"),
    ("longbench", {"_id": "lcc-0"}, "not an answer to sample 0 of trec, but to lcc-0"),
]


def refused(path: Path, run, message: str, capsys) -> None:
    capsys.readouterr()
    assert run() == 1
    said = capsys.readouterr()
    assert f"{path}:1: " in said.err and message in said.err and said.err.count("\n") == 1 and said.out == "", said.err


@pytest.mark.parametrize(("tool", "field"), [(tool, field) for tool, some in WITHOUT.items() for field in some])
def test_a_record_without_a_field_is_named_by_its_line(tool, field, folder, capsys):
    path, run = folder(tool)
    first, *rest = lines(path)
    del first[field]
    write(path, [first, *rest])
    refused(path, run, f"'{field}' is missing", capsys)


@pytest.mark.parametrize(("tool", "change", "message"), OTHER)
def test_a_record_of_something_else_is_named_by_its_line(tool, change, message, folder, capsys):
    path, run = folder(tool)
    first, *rest = lines(path)
    write(path, [first | change, *rest])
    refused(path, run, message, capsys)


@pytest.mark.parametrize("tool", [tool for tool in RUNS if tool != "cache_profile"])  # which compares nothing
def test_records_in_another_order_are_the_same_results(tool, folder, tmp_path):
    path, run = folder(tool)
    tables = {one.name: one.read_bytes() for one in (tmp_path / "run").glob("*.json")}
    by_cache: dict[str, list[dict]] = {}
    for one in lines(path):
        by_cache.setdefault(one.get("kv") or one.get("spec") or one.get("_id"), []).append(one)
    write(path, [one for some in reversed(by_cache.values()) for one in some])
    assert run() == 0
    after = {one.name: one.read_bytes() for one in (tmp_path / "run").glob("*.json")}
    assert after == tables


def test_a_context_without_one_of_its_answers_is_asked_again(folder):
    path, run = folder("retrieval")
    results = (path.parent / "results.json").read_bytes()
    whole = lines(path)
    assert not whole[0]["last"] and whole[1]["last"]
    write(path, whole[1:])
    assert run() == 0 and (path.parent / "results.json").read_bytes() == results
    assert lines(path) == [*whole[1:], *whole[:2]]


def test_arrays_of_another_window_are_refused(folder, capsys):
    path, run = folder("perplexity")
    for one, other in ((0, 1), (2, 3), (0, 2)):  # of f16 two windows, of q8_0 two, one of each
        before = [path.parent / record["arrays"] for record in lines(path)]
        kept = before[one].read_bytes()
        shutil.copy(before[other], before[one])
        capsys.readouterr()
        assert run() == 1
        said = capsys.readouterr()
        assert f"{before[one]}: not the arrays that windows.jsonl has there" in said.err and said.err.count("\n") == 1
        before[one].write_bytes(kept)
    assert run() == 0
    write(path, lines(path)[1:])  # as the message says
    shutil.copy(before[1], before[0])
    table = (path.parent / "perplexity.json").read_bytes()
    assert run() == 0 and (path.parent / "perplexity.json").read_bytes() == table


@pytest.mark.parametrize("name", ["caches.json", "versions.json", "config.json"])
def test_a_file_of_the_folder_that_is_no_object_is_named(name, folder, capsys):
    path, run = folder("perplexity")
    (path.parent / name).write_text("[1]")
    capsys.readouterr()
    assert run() == 1
    said = capsys.readouterr()
    assert f"{path.parent / name}: not a JSON object" in said.err and said.err.count("\n") == 1
