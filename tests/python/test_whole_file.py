"""Files that appear whole or not at all, and what killed writers leave: the Python half of test_atomic_file.cpp."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from python_eval.errors import EvalError
from python_eval.files import write_text
from whole_file import is_temporary, whole_file

WRITER = """import pathlib, sys, time
sys.path.insert(0, sys.argv[1])
from whole_file import whole_file
with whole_file(pathlib.Path(sys.argv[2])) as temporary:
    temporary.write_text("half")
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def writer(root, tmp_path):
    """Gives a process that has written half of tmp_path / "a", and the name of what it has so far."""

    @contextmanager
    def start():
        command = [sys.executable, "-c", WRITER, root / "convert", tmp_path / "a"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout.readline() == "ready\n"
                yield process, f"a.tmp-{process.pid}"
            finally:
                process.kill()

    return start


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)


def test_what_killed_writers_left_goes_with_the_next_write(tmp_path, writer):
    with writer() as (one, first), writer() as (other, second):
        kill(one)
        kill(other)
    assert names(tmp_path) == sorted([first, second])
    write_text(tmp_path / "a", "whole")
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "whole"


def test_what_a_living_writer_has_so_far_stays(tmp_path, writer):
    with writer() as (process, theirs):
        with whole_file(tmp_path / "a") as mine:
            mine.write_text("mine")
            write_text(tmp_path / "a", "between")
            assert names(tmp_path) == sorted(["a", theirs, mine.name])
            assert (tmp_path / theirs).read_text() == "half" and (tmp_path / "a").read_text() == "between"
        assert (tmp_path / "a").read_text() == "mine"
        kill(process)
    write_text(tmp_path / "a", "last")
    assert names(tmp_path) == ["a"]


def test_the_tools_agree_on_names(tmp_path, tools, story, writer):
    """A run of livekv-cli removes what a Python writer left, and leaves what one has so far."""
    generate = ("-m", story, "-p", "Once", "-n", 1, "-t", 1, "--kv-save", tmp_path / "a")
    with writer() as (process, left):
        tools.run("livekv-cli", *generate)
        assert names(tmp_path) == ["a", left]
        kill(process)
    assert names(tmp_path) == ["a", left]
    tools.run("livekv-cli", *generate)
    assert names(tmp_path) == ["a"]


def test_a_file_whose_name_only_looks_alike_stays(tmp_path):
    others = ["a.tmp", "a.tmp-", "a.tmp7", "a.tmp-7x", "a.tmp-x7", "b.tmp-7", "aa.tmp-7", "a.tmp-7.kv", "a.tmp-2026-11-21", "a.tmp-7-"]
    for name in others:
        assert not is_temporary(name, "a")
        (tmp_path / name).write_text(name)
    write_text(tmp_path / "a", "whole")
    assert names(tmp_path) == sorted(["a", *others])


def test_what_is_no_file_stays_what_it_is(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "device").symlink_to("/dev/full")
    for name in ("pipe", "folder", "device"):
        with pytest.raises(EvalError, match="cannot write: it is not a file"):
            write_text(tmp_path / name, "text")
    assert (tmp_path / "pipe").is_fifo() and names(tmp_path / "folder") == []
    assert (tmp_path / "device").is_symlink() and (tmp_path / "device").is_char_device()


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    for name in ("a", "new"):  # one that is there, one that is not yet
        (tmp_path / name).symlink_to(f"there/{name}")
    (tmp_path / "there" / "a").write_text("old")
    for name in ("a", "new"):
        write_text(tmp_path / name, name)
        assert (tmp_path / name).is_symlink() and (tmp_path / "there" / name).read_text() == name
    assert names(tmp_path / "there") == ["a", "new"]


def test_a_failure_leaves_what_was_there(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "a") as temporary:
        temporary.write_text("new")
        assert names(tmp_path) == ["a", f"a.tmp-{os.getpid()}"]
        raise ZeroDivisionError
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"
