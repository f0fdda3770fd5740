"""The runs of tests/reliability, a few cases each; docs/reliability.md says how many they were by hand."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def run(root, build_dir, script, *arguments):
    done = subprocess.run(
        [sys.executable, root / "tests" / "reliability" / script, "--build", build_dir, *arguments],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_killed_writers_leave_the_old_file_or_the_new_one(root, build_dir, tools):
    lines = run(root, build_dir, "kills.py", "--count", "10")
    assert len(lines) == 2 and all(": 10 kills; found " in line for line in lines)


def test_damaged_files_are_refused_or_can_be_used(livekv, root, build_dir):
    lines = run(root, build_dir, "damage.py", "--count", "300")
    assert [line.split(":")[0] for line in lines] == ["caches", "models"]


@pytest.mark.parametrize("script", ["damage.py", "kills.py"])
@pytest.mark.parametrize("count", ["-1", "0"])
def test_a_count_that_tries_nothing_is_refused(root, script, count):
    command = [sys.executable, root / "tests" / "reliability" / script, "--count", count]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.endswith(f"argument --count: {count} is less than 1\n")


def test_a_short_soak_is_judged_by_its_results(root, build_dir, livekv):
    command = [sys.executable, root / "tests" / "reliability" / "soak.py", "--operations", "20", "--minutes"]
    environment = os.environ | {"PYTHONPATH": str(build_dir / "python")}
    done = subprocess.run([*command, "0.05"], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0 and "FAILED" not in done.stdout, done.stdout + done.stderr
    none = subprocess.run([*command, "0"], capture_output=True, text=True, timeout=60, env=environment)
    assert none.returncode == 2 and none.stderr.endswith("argument --minutes: 0 is not more than 0\n")
