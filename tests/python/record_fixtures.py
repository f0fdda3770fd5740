"""Record tests/fixtures/logits.npz with torch: what transformers computes for the tiny models.

    python tests/python/record_fixtures.py [NAME ...]

Without names all of them; with names those alone, and the others stay as they are.

For each shape it tries seeds until the greedy continuation is varied and never within a near tie, because there the f16
cache could rightly choose another token. The found seed is recorded; tests use it, and check the weights' digest.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "convert"))

import tiny_models
import torch_reference
from recorded import FIXTURE

N_PROMPT = 40
N_GREEDY = 64
LEAST_LEAD = 0.003  # logits within 0.001 of the reference can close a lead of 0.002
LEAST_DISTINCT = 24
MAX_SEEDS = 400


def prompt(shape: tiny_models.Shape) -> list[int]:
    return np.random.default_rng(7).integers(3, 259, N_PROMPT).tolist()


def record(shape: tiny_models.Shape, folder: Path) -> dict[str, np.ndarray]:
    tokens = prompt(shape)
    for seed in range(1, MAX_SEEDS):
        candidate = dataclasses.replace(shape, seed=seed)
        tensors = tiny_models.weights(candidate)
        model = torch_reference.load(tiny_models.make(folder / f"{shape.name}-{seed}", candidate, tensors))
        greedy = torch_reference.greedy(model, tokens, N_GREEDY, LEAST_LEAD)
        if greedy and len(set(greedy)) >= LEAST_DISTINCT:
            print(f"{shape.name}: seed {seed}, {len(set(greedy))} distinct tokens", file=sys.stderr)
            return {
                "seed": np.int64(seed),
                "digest": np.array(tiny_models.digest(tensors)),
                "tokens": np.array(tokens, np.int32),
                "logits": torch_reference.logits(model, tokens),
                "greedy": np.array(greedy, np.int32),
            }
    sys.exit(f"{shape.name}: no seed below {MAX_SEEDS} will do")


def main() -> None:
    names = sys.argv[1:] or list(tiny_models.SHAPES)
    recorded = dict(np.load(FIXTURE)) if sys.argv[1:] else {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            shape = tiny_models.SHAPES[name]
            for key, value in record(shape, Path(folder)).items():
                recorded[f"{name}.{key}"] = value
    FIXTURE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FIXTURE, **recorded)
    print(f"{FIXTURE}: {FIXTURE.stat().st_size / 1e3:.0f} kB", file=sys.stderr)


if __name__ == "__main__":
    main()
