"""The wheel: built from the checkout, installed where nothing but numpy is, run without the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

# All of it is compiled; each command has a limit of its own.
pytestmark = [pytest.mark.slow, pytest.mark.uninstrumented, pytest.mark.timeout(7200)]

SCRIPT = """
import sys
import numpy as np
import livekv

model = livekv.Model(sys.argv[1], n_threads=1)
session = model.session(n_ctx=512, kv=livekv.KVOptions.parse("small:chunk-size=64"))
text = "".join(session.generate("Once upon a time", 40, temperature=0))
assert len(text) > 40, text
assert session.eval(np.arange(5, 105)).shape == (1, model.n_vocab)
assert session.kv_stats().bytes.codes > 0 and session.kv_dump(0)["k_codes"].any()
result = livekv.fidelity(model, model.tokenize("a b c d e f g h i j k l m n o p") * 8, 64, base=livekv.KVOptions(policy="f16"))
assert result.kl_mean > 0
sealed = livekv.kv.KeyStream().seal(np.ones((1, 8, 16), np.float32))
assert sealed.warmup
import python_eval
from livekv.conversion import FOLDER
assert (FOLDER / "convert_hf.py").is_file() and "site-packages" in str(FOLDER)
print(livekv.__version__, livekv.__file__)
"""


def run(*command: object, **options) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=1800, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def build_environment(livekv, build_dir):
    """ccache, where the build under test uses it, spares compiling everything again."""
    cache = dict(re.findall(r"^(CMAKE_\w+):\w+=(.+)$", (build_dir / "CMakeCache.txt").read_text(), re.M))
    environment = os.environ | {"CC": cache["CMAKE_C_COMPILER"], "CXX": cache["CMAKE_CXX_COMPILER"]}
    for launcher in ("CMAKE_C_COMPILER_LAUNCHER", "CMAKE_CXX_COMPILER_LAUNCHER"):
        if launcher in cache:
            environment[launcher] = cache[launcher]
    return environment


@pytest.fixture(scope="module")
def wheel(root, build_environment, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, root, env=build_environment)
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_and_nothing_else(wheel, root):
    names = zipfile.ZipFile(wheel).namelist()
    kept = {name for name in names if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in kept} == {"livekv", "python_eval"}
    expected = {f"livekv/{p.name}" for p in (root / "bindings" / "livekv").iterdir() if p.is_file()}
    expected |= {f"livekv/convert/{p.name}" for p in (root / "convert").glob("*.py")}
    assert expected <= kept
    binaries = [name for name in kept if name.endswith((".so", ".a"))]
    assert len(binaries) == 1 and re.fullmatch(r"livekv/_livekv\..*\.so", binaries[0])
    assert "livekv/py.typed" in kept and "livekv/_livekv.pyi" in kept
    assert not [name for name in kept if name.endswith((".h", ".cpp", ".gguf", ".pyc"))]


def test_the_extension_needs_only_what_every_system_has(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as files:
        (name,) = (n for n in files.namelist() if n.endswith(".so"))
        extension = Path(files.extract(name, tmp_path))
    needed = set(re.findall(r"NEEDED\s+(\S+)", run("objdump", "-p", extension)))
    assert {n.split(".so")[0] for n in needed} <= {"libc", "libm", "libstdc++", "libgcc_s", "libpthread", "ld-linux-x86-64"}
    exported = [line.split()[-1] for line in run("nm", "-D", "--defined-only", extension).splitlines()]
    assert "PyInit__livekv" in exported and not [s for s in exported if s.startswith(("ggml", "gguf", "pcre2"))]


def test_it_runs_in_an_empty_venv_without_the_repository(wheel, story, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    listed = run(python, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check")
    assert {line.split("==")[0] for line in listed.splitlines()} <= {"livekv", "numpy", "pip", "setuptools"}
    shutil.copy(story, tmp_path / "model.gguf")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    out = run(python, "-W", "error", "-c", SCRIPT, tmp_path / "model.gguf", cwd=tmp_path, env=environment)
    version, place = out.split()
    assert wheel.name.startswith(f"livekv-{version}-") and Path(place).is_relative_to(tmp_path)


def test_the_source_distribution_holds_what_a_build_needs(root, build_environment, tmp_path):
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path, root, env=build_environment)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as files:
        names = {name.split("/", 1)[1] for name in files.getnames() if "/" in name}
    tracked = run("git", "-C", root, "ls-files", "engine", "bindings", "ggml", "third_party", "convert").splitlines()
    assert set(tracked) <= names
    assert {"CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE"} <= names
    assert not [n for n in names if n.split("/")[0] in ("tests", "build", ".deps", ".venv", "docs", ".ci")]
    assert path.stat().st_size < 2_000_000
