"""Hugging Face folders to GGUF files: convert/convert_hf.py, which the package carries, as a call."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from livekv._livekv import Error

FOLDER = Path(__file__).resolve().parent / "convert"
"""Where convert_hf.py and its modules are."""
if not FOLDER.is_dir():  # the package's files are links into a checkout
    FOLDER = FOLDER.parents[2] / "convert"


def convert_hf(folder: str | os.PathLike[str], out: str | os.PathLike[str], type: str = "f16") -> str:
    """Converts a Llama or Mistral model: a line that says what was written. out is complete or untouched.

    type: of the matrices, one of convert_hf.py's: f32, f16, q8_0, q4_0. Progress and notes go to stderr. Raises Error,
    with the converter's message, when it cannot; it needs the packages of `pip install livekv[convert]`.
    """
    command = [sys.executable, str(FOLDER / "convert_hf.py"), os.fspath(folder), os.fspath(out), "--type", type]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None and run.stderr is not None
        last = ""
        for line in run.stderr:
            if sys.stderr is not None:  # closed: nobody hears
                with contextlib.suppress(OSError):
                    sys.stderr.write(line)
            last = line.strip() or last
        summary = run.stdout.read().strip()
    if run.returncode != 0:
        raise Error(last.removeprefix("convert_hf: ") or f"convert_hf.py exited with {run.returncode}")
    return summary
