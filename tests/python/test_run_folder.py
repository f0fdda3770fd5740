"""Run folders: one configuration each, records that survive a kill and a full disk, versions."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from python_eval import run_folder
from python_eval.errors import EvalError, run_tool
from python_eval.files import parse_line
from python_eval.longbench.data import read_rows
from python_eval.run_folder import RunFolder

CONFIG = {"model": "m.gguf", "kv": ["f16", "livekv"], "limits": {"tokens": 7, "samples": None}}


def test_a_run_goes_on_where_it_stopped(tmp_path):
    with RunFolder(tmp_path / "a" / "run", CONFIG) as folder:
        assert folder.records("predictions") == []
        folder.append("predictions", {"id": 1, "pred": "é\n\u2028x"})
        folder.append("deep/er", {"id": 2})
    with RunFolder(tmp_path / "a" / "run", json.loads(json.dumps(CONFIG))) as folder:
        folder.append("predictions", {"id": 3})
        assert folder.records("predictions") == [{"id": 1, "pred": "é\n\u2028x"}, {"id": 3}]
        assert folder.records("deep/er") == [{"id": 2}]
    assert json.loads((tmp_path / "a" / "run" / "config.json").read_text()) == CONFIG


def test_every_tools_folder_says_what_it_is_of_in_one_form(root):
    users = [path for path in (root / "python_eval").rglob("*.py")
             if "RunFolder(" in path.read_text() and path.name != "run_folder.py"]  # fmt: skip
    assert len(users) >= 7
    for path in users:
        assert "run_config(" in path.read_text() or "measuring.config_of(" in path.read_text(), path


def test_records_are_on_the_disk_when_append_returns(tmp_path):
    script = (
        "import os, signal, sys; from python_eval.run_folder import RunFolder\n"
        "folder = RunFolder(sys.argv[1], {})\n"
        "for i in range(3): folder.append('p', {'i': i})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "run"], check=False)
    assert done.returncode == -signal.SIGKILL
    with RunFolder(tmp_path / "run", {}) as folder:
        assert folder.records("p") == [{"i": 0}, {"i": 1}, {"i": 2}]


@pytest.mark.parametrize("torn", [b'{"i"', b'{"i": 7}', b"\xff" * 200_000])
def test_a_torn_last_line_is_dropped(torn, tmp_path):
    with RunFolder(tmp_path, {}) as folder:
        folder.append("p", {"i": 0})
        with (tmp_path / "p.jsonl").open("ab") as file:
            file.write(torn)
        assert folder.records("p") == [{"i": 0}]
        folder.append("p", {"i": 1})
        assert folder.records("p") == [{"i": 0}, {"i": 1}]
        (tmp_path / "q.jsonl").write_bytes(torn)
        folder.append("q", {"i": 2})
        assert folder.records("q") == [{"i": 2}]


@pytest.mark.parametrize(("line", "what"), [(b"{", "not JSON"), (b"[]", "not a JSON object"), (b"\xff", "not JSON")])
def test_a_broken_line_is_named(line, what, tmp_path):
    with RunFolder(tmp_path, {}) as folder:
        (tmp_path / "p.jsonl").write_bytes(b'{"i": 0}\n' + line + b'\n{"i": 1}\n')
        with pytest.raises(EvalError, match=rf"p\.jsonl:2: {what}"):
            folder.records("p")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "n.gguf"}, 'was run with model = "m.gguf", now it is "n.gguf"'),
        ({"kv": ["f16"]}, r'was run with kv = \["f16", "livekv"\], now it is \["f16"\]'),
        ({"limits": {"tokens": 8, "samples": None}}, "was run with limits.tokens = 7, now it is 8"),
        ({"seed": 1}, "was run with seed = null, now it is 1"),
    ],
)
def test_another_configuration_is_refused(change, message, tmp_path):
    RunFolder(tmp_path, CONFIG).close()
    with pytest.raises(EvalError, match=message):
        RunFolder(tmp_path, CONFIG | change)
    RunFolder(tmp_path, CONFIG).close()


def test_folders_that_cannot_be_taken(tmp_path):
    RunFolder(tmp_path / "run", CONFIG).close()
    with pytest.raises(EvalError, match="run: already holds a run"):
        RunFolder(tmp_path / "run", CONFIG, resume=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("Dear")
    with pytest.raises(EvalError, match="other: holds files but no config.json"):
        RunFolder(tmp_path / "other", CONFIG)
    with pytest.raises(EvalError, match="letter.txt: cannot write there: "):
        RunFolder(tmp_path / "other" / "letter.txt", CONFIG)
    with RunFolder(tmp_path / "run", CONFIG), pytest.raises(EvalError, match="another run is writing to this folder"):
        RunFolder(tmp_path / "run", CONFIG)
    (tmp_path / "run" / "config.json").write_text("{")
    with pytest.raises(EvalError, match="config.json: not JSON"):
        RunFolder(tmp_path / "run", CONFIG)


def test_several_may_append_to_a_shared_folder(tmp_path):
    with RunFolder(tmp_path, CONFIG, exclusive=False) as one, RunFolder(tmp_path, CONFIG, exclusive=False) as other:
        one.append("p", {"i": 0})
        other.append("p", {"i": 1})
        assert one.records("p") == [{"i": 0}, {"i": 1}]


def test_a_run_killed_before_it_had_a_config_can_begin_again(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / "versions.json.tmp-1").touch()
    (tmp_path / "config.json.tmp-1").touch()
    (tmp_path / "versions.json").write_text("{}")
    RunFolder(tmp_path, CONFIG).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "config.json", "versions.json"]


@contextmanager
def full_disk():
    """No file may grow beyond 4096 bytes: a write across it is cut short, as on a full disk, and the next one fails. Only
    around the calls: pytest's own output may be a file too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_keeps_what_is_finished(tmp_path):
    with RunFolder(tmp_path, {}) as folder:
        with full_disk():
            folder.append("p", {"pred": "x" * 3000})
            with pytest.raises(EvalError, match=r"p\.jsonl: cannot write: File too large; what is finished is kept"):
                folder.append("p", {"pred": "y" * 3000})
            assert (tmp_path / "p.jsonl").read_bytes() == b'{"pred": "' + b"x" * 3000 + b'"}\n'
            folder.append("p", {"pred": "z"})
            assert [record["pred"][0] for record in folder.records("p")] == ["x", "z"]
            folder.write_json("scores.json", {"a": 1})
            with pytest.raises(EvalError, match=r"scores\.json: cannot write: File too large"):
                folder.write_json("scores.json", {"a": "y" * 5000})
        assert folder.read_json("scores.json") == {"a": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".lock", "config.json", "p.jsonl", "scores.json", "versions.json",
    ]  # fmt: skip


def test_a_number_that_json_lacks_is_not_written(tmp_path):
    with RunFolder(tmp_path, {}) as folder:
        with pytest.raises(ValueError, match="not JSON compliant"):
            folder.append("p", {"x": float("nan")})
        assert folder.records("p") == []


def test_versions_say_what_ran(tmp_path, monkeypatch, root):
    with RunFolder(tmp_path, {}) as folder:
        first = folder.read_json("versions.json")
    assert first["python"] == sys.version.split()[0] and "numpy" in first["packages"]
    if (root / ".git").exists():
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True).stdout
        assert first["commit"].removesuffix("-dirty") == head.strip()
    RunFolder(tmp_path, {}).close()
    assert json.loads((tmp_path / "versions.json").read_text()) == first | {"resumed_with": []} or first == json.loads(
        (tmp_path / "versions.json").read_text()
    )
    monkeypatch.setattr(run_folder, "versions", lambda: first | {"python": "4.0"})
    for _ in range(2):
        RunFolder(tmp_path, {}).close()
    later = json.loads((tmp_path / "versions.json").read_text())
    assert later["python"] == first["python"] and [one["python"] for one in later["resumed_with"]] == ["4.0"]


def test_tools_say_one_line_and_exit_with_one(capsys, tmp_path):
    def body(problem):
        raise problem

    assert run_tool("tool", lambda: body(EvalError("no such thing"))) == 1
    assert run_tool("tool", lambda: body(FileNotFoundError(2, "gone", "f"))) == 1
    assert run_tool("tool", lambda: body(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "tool: no such thing\ntool: [Errno 2] gone: 'f'\ntool: interrupted\n"
    with pytest.raises(ZeroDivisionError):
        run_tool("tool", lambda: 1 // 0)
    assert run_tool("tool", lambda: 3) == 3
    assert os.listdir(tmp_path) == []


def test_a_line_with_half_of_a_surrogate_pair_is_named(tmp_path):
    with pytest.raises(EvalError, match=r"x\.jsonl:3: half of a surrogate pair \(U\+D83D\)"):
        parse_line(tmp_path / "x.jsonl", 3, rb'{"a": ["\ud83d"]}')
    assert parse_line(tmp_path / "x.jsonl", 3, rb'{"a": "\ud83d\ude00"}') == {"a": "\U0001f600"}


def test_a_byte_order_mark_begins_a_file_and_nothing_else(tmp_path):
    assert parse_line(tmp_path / "x.jsonl", 1, b'\xef\xbb\xbf{"a": 1}') == {"a": 1}
    with pytest.raises(EvalError, match=r"x\.jsonl:2: not JSON"):
        parse_line(tmp_path / "x.jsonl", 2, b'\xef\xbb\xbf{"a": 1}')


def test_empty_lines_end_a_file_and_do_not_part_it(tmp_path):
    with RunFolder(tmp_path, {}) as folder:
        folder.append("done", {"a": 1})
        with (tmp_path / "done.jsonl").open("ab") as file:
            file.write(b"\n \r\n\n")
        assert folder.records("done") == [{"a": 1}]
        folder.append("done", {"a": 2})  # and now they part it
        with pytest.raises(EvalError, match=r"done\.jsonl:2: not JSON"):
            folder.records("done")


def test_samples_with_a_mark_and_empty_last_lines_are_read(tmp_path):
    (tmp_path / "s.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\n\n\r\n')
    assert [row.fields for row in read_rows(tmp_path / "s.jsonl")] == [{"a": 1}, {"a": 2}]
