"""Where convert/'s modules are: a folder of scripts, not a package."""

from __future__ import annotations

from pathlib import Path

# The checkout's, or the one that an installed livekv carries beside python_eval.
CONVERT_FOLDERS = [str(Path(__file__).resolve().parents[1] / folder) for folder in ("convert", "livekv/convert")]
