"""ggml/fetch.py: what is unpacked is what the lock file says, or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile

import pytest


@pytest.fixture
def package(tmp_path):
    """A wheel in a folder that pip can find without a network, and a lock file for it."""
    wheel = tmp_path / "index" / "tinypackage-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as bundle:
        bundle.writestr("tinypackage/src/hello.h", "#define HELLO 1\n")
        bundle.writestr("tinypackage-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinypackage\nVersion: 1.0\n")
        bundle.writestr("tinypackage-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        bundle.writestr("tinypackage-1.0.dist-info/RECORD", "")
    lock = {"name": "tinypackage", "version": "1.0", "file": wheel.name, "folder": "tinypackage/src",
            "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest()}  # fmt: skip
    return wheel, lock


def fetch(root, tmp_path, lock):
    (tmp_path / "lock.json").write_text(json.dumps(lock))
    env = os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "index"), "PIP_CONFIG_FILE": os.devnull}
    command = [sys.executable, root / "ggml" / "fetch.py", tmp_path / "lock.json", tmp_path / "out" / "tiny"]
    return subprocess.run(command, capture_output=True, text=True, env=env)


def test_unpacks_the_named_folder_once(root, tmp_path, package):
    wheel, lock = package
    assert fetch(root, tmp_path, lock).returncode == 0
    assert (tmp_path / "out/tiny/hello.h").read_text() == "#define HELLO 1\n"
    wheel.unlink()  # a second run needs no package
    assert fetch(root, tmp_path, lock).returncode == 0
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["tiny"]


def test_another_hash_is_refused_and_leaves_nothing(root, tmp_path, package):
    _, lock = package
    done = fetch(root, tmp_path, lock | {"sha256": "0" * 64})
    assert done.returncode != 0 and "the lock file says 0000" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_package_or_folder_is_refused(root, tmp_path, package):
    _, lock = package
    assert "cannot download" in fetch(root, tmp_path, lock | {"version": "2.0"}).stderr
    assert "holds no folder" in fetch(root, tmp_path, lock | {"folder": "elsewhere"}).stderr
