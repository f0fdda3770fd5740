"""What is in the object files. Those of the AVX levels define nothing but their table: the linker keeps one copy of a
function many files define, and may keep the one with instructions this machine lacks."""

from __future__ import annotations

import shutil
import subprocess

import pytest


def defined_globals(nm: str, path) -> list[tuple[str, str]]:
    """(type, name) of each symbol other files could be given: T, D, ... and the weak W, V and u."""
    lines = subprocess.run([nm, "-C", "--defined-only", path], capture_output=True, text=True, check=True).stdout.splitlines()
    symbols = [line.split(maxsplit=2)[1:] for line in lines]
    # DW.ref: a pointer to the C++ runtime, no code.
    return [(kind, name) for kind, name in symbols if (kind.isupper() or kind in "uvw") and not name.startswith("DW.ref.")]


@pytest.mark.uninstrumented
@pytest.mark.parametrize("level", ["avx2", "avx512"])
def test_an_avx_object_defines_its_table_alone(build_dir, level):
    nm = shutil.which("nm")
    if not nm:
        pytest.skip("no nm")
    found = list(build_dir.glob(f"engine/**/kernels/cpu/{level}.cpp.o"))
    if not found:
        pytest.skip(f"no {level} object under {build_dir}/engine: not x86-64, or built elsewhere")
    for path in found:
        assert defined_globals(nm, path) == [("D", f"livekv::{level}_kernels")]


def test_symbols_other_files_are_given_are_found(build_dir):
    nm = shutil.which("nm")
    found = list(build_dir.glob("engine/**/kernels/seal.cpp.o"))
    if not nm or not found:
        pytest.skip("no nm, or no objects")
    assert ("T", "livekv::chunk_sealer::split_keys(livekv::chunk_rows const&)") in defined_globals(nm, found[0])


def test_the_product_holds_no_emulated_gpu(build_dir):
    """It is the tests' library (livekv_device_emulated); what is shipped says that there is no GPU."""
    nm = shutil.which("nm")
    if not nm:
        pytest.skip("no nm")

    def is_emulation(path) -> bool:
        found = subprocess.run([nm, "-C", path], capture_output=True, text=True, check=True).stdout
        return "simt::emulated" in found

    emulating = build_dir / "bin" / "test_cuda_cache"
    if not emulating.exists():
        pytest.skip("built for CUDA, or without tests")
    assert is_emulation(emulating)  # what is looked for would be found
    products = [build_dir / "bin" / f"livekv-{name}" for name in ("cli", "bench", "perplexity")]
    products += [*build_dir.glob("engine/liblivekv_engine.a"), *build_dir.glob("python/livekv/_livekv*.so")]
    assert [path.name for path in products if is_emulation(path)] == []
