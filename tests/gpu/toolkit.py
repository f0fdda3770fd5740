"""Prints a CUDA toolkit's root that has cuBLAS, for CUDAToolkit_ROOT.

nvcc's own when cuBLAS is in it. Otherwise a folder of links that joins it with the nvidia-cublas package of the Python
that runs this (or of LIVEKV_CUBLAS, a folder with include/ and lib/).

    toolkit.py FOLDER    the folder to make when one is needed
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path


def cublas_of_python() -> Path | None:
    """The folder of the nvidia-cublas package, with include/ and lib/."""
    if "LIVEKV_CUBLAS" in os.environ:
        return Path(os.environ["LIVEKV_CUBLAS"])
    for entry in map(Path, sys.path):
        for name in ("nvidia/cu13", "nvidia/cublas"):
            if (entry / name / "include" / "cublas_v2.h").exists():
                return entry / name
    return None


def link_all(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for item in source.iterdir():
        link = target / item.name
        if not link.exists():
            link.symlink_to(item.resolve())
        unversioned = re.sub(r"\.so(\.\d+)+$", ".so", item.name)  # what the linker looks for
        if unversioned != item.name and not (target / unversioned).exists():
            (target / unversioned).symlink_to(item.resolve())


def main() -> int:
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc")
    if not nvcc:
        print("toolkit.py: no nvcc", file=sys.stderr)
        return 1
    # nvcc on the path may be a script that calls the real one.
    real = Path(nvcc).resolve()
    if real.stat().st_size < 4096:
        found = re.search(r"(/\S+/nvcc)\b", real.read_text(errors="ignore"))
        real = Path(found[1]).resolve() if found else real
    root = real.parent.parent
    libraries = next((root / d for d in ("lib64", "lib", "targets/x86_64-linux/lib") if (root / d).is_dir()), None)
    headers = next((root / d for d in ("include", "targets/x86_64-linux/include") if (root / d).is_dir()), None)
    if libraries is None or headers is None:
        print(f"toolkit.py: no libraries or headers beside {real}", file=sys.stderr)
        return 1
    if list(libraries.glob("libcublas.so*")) and (headers / "cublas_v2.h").exists():
        print(root)
        return 0
    cublas = cublas_of_python()
    if cublas is None:
        print("toolkit.py: no cuBLAS: neither in the toolkit nor the nvidia-cublas package", file=sys.stderr)
        return 1
    joined = Path(sys.argv[1])
    shutil.rmtree(joined, ignore_errors=True)
    for source in (headers, cublas / "include"):
        link_all(source, joined / "include")
    for source in (libraries, cublas / "lib"):
        link_all(source, joined / "lib64")
    for name in ("bin", "nvvm"):
        if (root / name).is_dir():
            (joined / name).symlink_to(root / name)
    print(joined)
    return 0


if __name__ == "__main__":
    sys.exit(main())
