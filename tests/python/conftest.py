"""Where the tests find things: the build folder (LIVEKV_BUILD, default `build`), the tools, and ../shared."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "convert")]


def pytest_configure(config):
    # Before modules that do without the package's fixture are collected; the fixture says why there is none.
    built = ROOT / os.environ.get("LIVEKV_BUILD", "build") / "python"
    if built.is_dir():
        sys.path.insert(0, str(built))
    config.addinivalue_line("markers", "uninstrumented: of memory, times, forks or symbols as they are without a sanitizer")
    config.addinivalue_line("markers", "slow: compares with another engine or takes more than a few seconds")


def pytest_collection_modifyitems(items):
    if "libasan" in os.environ.get("LD_PRELOAD", ""):
        for item in items:
            if item.get_closest_marker("uninstrumented"):
                item.add_marker(pytest.mark.skip(reason="AddressSanitizer takes memory, time, locks and symbols of its own"))


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def build_dir() -> Path:
    return ROOT / os.environ.get("LIVEKV_BUILD", "build")


@pytest.fixture(scope="session")
def livekv(build_dir) -> ModuleType:
    """The package of the build under test. Skips where it was configured without, and only there."""
    if "LIVEKV_PYTHON:BOOL=ON" not in (build_dir / "CMakeCache.txt").read_text():
        pytest.skip(f"{build_dir} was configured without LIVEKV_PYTHON")
    package = importlib.import_module("livekv")
    assert Path(package.__file__).parent == build_dir / "python" / "livekv", "another livekv is in the way"
    return package


@pytest.fixture(scope="session")
def story(root) -> Path:
    """The model that ships with the project."""
    return root / "tests" / "models" / "story.gguf"


@pytest.fixture(scope="session")
def opening(root) -> Path:
    """The opening of a novel that it was not trained on."""
    return root / "tests" / "data" / "war-and-peace-opening.txt"


@pytest.fixture(scope="session")
def model(livekv, story):
    """The shipped model in the package, on one thread; a test file may have another."""
    return livekv.Model(story, n_threads=1)


@pytest.fixture(scope="session")
def tokens(model, opening) -> list[int]:
    """300 tokens of the opening."""
    return model.tokenize(opening.read_text())[:300]


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared beside the project")
    return folder


def assert_refused(done: subprocess.CompletedProcess, status: int, part: str) -> None:
    """By livekv-cli: one line on stderr that holds part, nothing on stdout, and the exit status."""
    assert done.returncode == status, done.stderr
    assert done.stdout == b""
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1 and lines[0].startswith("livekv-cli: ") and part in lines[0], lines


@dataclass(frozen=True)
class Tools:
    """The built command-line tools. A tool that is not there is a failure, not a reason to skip."""

    bin_dir: Path

    def run(self, name: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess:
        tool = self.bin_dir / name
        if not tool.exists():
            pytest.fail(f"{tool} is not built")
        done = subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True, timeout=300)
        if check and done.returncode != 0:
            pytest.fail(f"{name} exited with {done.returncode}: {done.stderr.strip()[-500:]}")
        return done

    def tokenize(self, model: Path, text: str) -> list[int]:
        return json.loads(self.run("livekv-cli", "-m", model, "--tokenize", "-p", text).stdout)

    def logits(self, model: Path, tokens: list[int], out: Path, *options: object) -> np.ndarray:
        """float32 [n_tokens, n_vocab], one row for each token of the prompt."""
        listed = ",".join(map(str, tokens))
        self.run("livekv-logits", "-m", model, "--tokens", listed, "--kv", "f16", *options, "--out", out)
        return np.fromfile(out, np.float32).reshape(len(tokens), -1)

    def greedy(self, model: Path, tokens: list[int], n: int, out: Path) -> list[int]:
        listed = ",".join(map(str, tokens))
        done = self.run(
            "livekv-logits", "-m", model, "--tokens", listed, "--kv", "f16", "--generate", n, "--out", out
        )
        return json.loads(done.stdout)


@pytest.fixture(scope="session")
def tools(build_dir) -> Tools:
    return Tools(build_dir / "bin")
