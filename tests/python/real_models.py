"""Checkpoints that people run, where `make models` has fetched them: in the folder LIVEKV_MODELS, or models/ of the checkout."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("LIVEKV_MODELS", ROOT / "models"))
LOCKED = json.loads((ROOT / "tests" / "models" / "models.lock.json").read_text())
FILES = {name: model["file"] for name, model in LOCKED.items()}


def path_of(name: str) -> Path:
    """Skips, and says so, where the file is not there."""
    path = FOLDER / FILES[name]
    if not path.is_file():
        pytest.skip(f"no {path.name} in {FOLDER}: make models fetches it (LIVEKV_MODELS names the folder)")
    return path
