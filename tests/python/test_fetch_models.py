"""Real checkpoints come from the configured index whole and with the locked hash, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

PARTS = [b"first half, " * 1000, b"second half " * 1000]


def wheel(folder: Path, name: str, content: bytes) -> str:
    """A package that is data only; its sha256."""
    path = folder / f"{name.replace('-', '_')}-1.0-py3-none-any.whl"
    info = path.name.split("-py3")[0] + ".dist-info"
    files = {f"{name}/data.bin": content, f"{name}/__init__.py": b"raise SystemExit('must not be run')",
             f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
             f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}  # fmt: skip
    record = "".join(f"{inside},,\n" for inside in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for inside, data in (files | {f"{info}/RECORD": record.encode()}).items():
            archive.writestr(inside, data)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path):
    """A folder of packages that pip is told to look in, and the lock file of a model in two of them."""
    packages = tmp_path / "packages"
    packages.mkdir()
    locked = [{"name": f"weights-{n}", "version": "1.0", "sha256": wheel(packages, f"weights-{n}", part)}
              for n, part in enumerate(PARTS)]  # fmt: skip
    model = {"file": "m.gguf", "bytes": 24000, "sha256": hashlib.sha256(b"".join(PARTS)).hexdigest(), "packages": locked}
    (tmp_path / "lock.json").write_text(json.dumps({"m": model}))
    return packages


def command(root, tmp_path, *names):
    return [sys.executable, root / "tests" / "models" / "fetch.py", "--lock", tmp_path / "lock.json", "--out", tmp_path / "out", *names]


def environment(packages: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    return kept | {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(packages)}


def fetch(root, tmp_path, packages, *names):
    return subprocess.run(command(root, tmp_path, *names), env=environment(packages), capture_output=True, text=True, timeout=120)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".fetch.lock")


def test_a_model_is_put_together_from_its_packages_and_kept(root, tmp_path, index):
    done = fetch(root, tmp_path, index, "m")
    target = tmp_path / "out" / "m.gguf"
    assert done.returncode == 0 and done.stdout.split() == [str(target)], done.stderr
    assert target.read_bytes() == b"".join(PARTS) and left_in(target.parent) == ["m.gguf"]
    again = fetch(root, tmp_path, tmp_path / "nowhere", "all")  # what is there needs no index
    assert again.returncode == 0 and again.stdout == done.stdout and again.stderr == ""


def test_an_interrupted_download_leaves_nothing_that_stays(root, tmp_path, index):
    out = tmp_path / "out"
    process = subprocess.Popen(command(root, tmp_path, "m"), env=environment(index), stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(out.glob(".fetch-*/m.gguf")) and time.monotonic() < deadline:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (out / "m.gguf").exists() and list(out.glob(".fetch-*"))
    assert fetch(root, tmp_path, index, "m").returncode == 0
    assert left_in(out) == ["m.gguf"]


@pytest.mark.parametrize("torn", [b"", PARTS[0], b"".join(PARTS)[:-1] + b"!"])
def test_a_file_that_is_not_the_locked_one_is_fetched_again(root, tmp_path, index, torn):
    target = tmp_path / "out" / "m.gguf"
    target.parent.mkdir()
    target.write_bytes(torn)
    done = fetch(root, tmp_path, index, "m")
    assert done.returncode == 0 and "what is there is not what is locked" in done.stderr
    assert target.read_bytes() == b"".join(PARTS)


def test_another_packages_bytes_are_refused(root, tmp_path, index):
    wheel(index, "weights-1", b"others")
    done = fetch(root, tmp_path, index, "m")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines()[-1] == "fetch: cannot download weights-1==1.0: its hash is not the locked one"
    assert left_in(tmp_path / "out") == []


def test_a_model_whose_parts_are_locked_in_another_order_is_refused(root, tmp_path, index):
    lock = json.loads((tmp_path / "lock.json").read_text())
    lock["m"]["packages"].reverse()
    (tmp_path / "lock.json").write_text(json.dumps(lock))
    done = fetch(root, tmp_path, index, "m")
    assert done.returncode == 1 and "m.gguf: its sha256 is not the locked one" in done.stderr
    assert left_in(tmp_path / "out") == []


def test_without_an_index_there_is_one_line(root, tmp_path, index):
    done = fetch(root, tmp_path, tmp_path / "nowhere", "m")
    assert done.returncode == 1 and done.stdout == ""
    said = [line for line in done.stderr.splitlines() if line.startswith("fetch: ")]
    assert len(said) == 2 and said[1].startswith("fetch: cannot download weights-0==1.0: ERROR: No matching distribution")
    assert fetch(root, tmp_path, index, "other").returncode == 2


def test_the_lock_file_is_complete_and_names_no_host(root):
    text = (root / "tests" / "models" / "models.lock.json").read_text()
    assert "//" not in text
    for model in json.loads(text).values():
        hashes = [model["sha256"], *(package["sha256"] for package in model["packages"])]
        assert all(re.fullmatch("[0-9a-f]{64}", one) for one in hashes) and len(set(hashes)) == len(hashes)


def test_the_demo_goes_on_without_the_model(root, build_dir, tmp_path):
    """A copy of the scripts, without a models folder and without an index."""
    for folder in ("tests/models", "tests/data"):
        (tmp_path / folder).mkdir(parents=True)
        for path in (root / folder).iterdir():
            (tmp_path / folder / path.name).symlink_to(path)
    for name in ("demo.sh", "fetch.py"):  # a link would lead back to this checkout
        copy = tmp_path / "tests" / "models" / name
        copy.unlink()
        copy.write_bytes((root / "tests" / "models" / name).read_bytes())
    done = subprocess.run(["sh", tmp_path / "tests" / "models" / "demo.sh", build_dir.resolve() / "bin"], env=environment(tmp_path),
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "demo: without SmolLM2, the shipped model" in done.stderr and len(done.stdout.split()) > 60
