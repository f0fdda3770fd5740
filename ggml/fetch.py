#!/usr/bin/env python3
"""Fetch a locked source package from the Python package index and unpack one folder of it.

    fetch.py LOCK.json DEST

LOCK.json names the package, its version, the file's sha256 and the folder inside it. DEST ends up holding that folder,
complete or not at all: it is unpacked beside DEST and renamed. Nothing is done when DEST is already at the locked hash.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path


def pip_command(scratch: Path) -> list[str]:
    """This interpreter's pip, or that of a throw-away venv where the distribution leaves pip out."""
    own = [sys.executable, "-m", "pip"]
    if subprocess.run([*own, "--version"], capture_output=True).returncode == 0:
        return own
    venv.create(scratch / "venv", with_pip=True)
    return [str(scratch / "venv" / "bin" / "python"), "-m", "pip"]


def download(lock: dict, scratch: Path) -> Path:
    requirement = f"{lock['name']}=={lock['version']}"
    command = [*pip_command(scratch), "download", "--quiet", "--no-deps", "--dest", str(scratch), requirement]
    if lock["file"].endswith(".tar.gz"):
        command += ["--no-binary", lock["name"]]  # not :all:, which would build the build tools from source too
    result = subprocess.run(command, capture_output=True, text=True)
    archive = scratch / lock["file"]
    if result.returncode != 0 or not archive.is_file():
        sys.exit(f"fetch: cannot download {requirement}:\n{result.stderr.strip()}")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != lock["sha256"]:
        sys.exit(f"fetch: {lock['file']} has sha256 {digest}, the lock file says {lock['sha256']}")
    return archive


def unpack(archive: Path, folder: str, target: Path) -> None:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as bundle:
            bundle.extractall(target)
    else:
        with tarfile.open(archive) as bundle:
            safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            inside = [member for member in bundle if member.name.startswith(folder + "/")]
            bundle.extractall(target, members=inside, **safe)
    if not (target / folder).is_dir():
        sys.exit(f"fetch: {archive.name} holds no folder {folder}")


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    lock, dest = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    stamp = dest / ".locked-sha256"
    if stamp.is_file() and stamp.read_text() == lock["sha256"]:
        return
    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dest.parent) as folder:
        scratch = Path(folder)
        unpack(download(lock, scratch), lock["folder"], scratch / "tree")
        ready = scratch / "tree" / lock["folder"]
        (ready / ".locked-sha256").write_text(lock["sha256"])
        shutil.rmtree(dest, ignore_errors=True)
        ready.rename(dest)


if __name__ == "__main__":
    main()
