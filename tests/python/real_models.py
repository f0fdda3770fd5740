"""Checkpoints that people run, where somebody has fetched them: in the folder LIVEKV_MODELS, or models/ of the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("LIVEKV_MODELS", Path(__file__).resolve().parents[2] / "models"))
FILES = {
    "smollm2": "smollm2-135m-instruct-q4_1.gguf",
    "qwen2.5-coder": "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    "gemma3": "gemma-3-270m-q4_k_m.gguf",
}


def path_of(name: str) -> Path:
    """Skips, and says so, where the file is not there."""
    path = FOLDER / FILES[name]
    if not path.is_file():
        pytest.skip(f"no {path.name} in {FOLDER} (LIVEKV_MODELS names the folder)")
    return path
