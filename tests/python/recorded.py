"""The tiny models whose logits are recorded in tests/fixtures/logits.npz, as Hugging Face folder and as GGUF."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import convert_hf
import numpy as np
import tiny_models

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "logits.npz"


@dataclasses.dataclass
class Recorded:
    folder: Path
    model: Path  # the GGUF, float32
    tokens: list[int]
    logits: np.ndarray  # [n_tokens, n_vocab]
    greedy: list[int]  # chosen with a lead over the runner-up that the engine's tolerance cannot close


def make_recorded(name: str, folder: Path) -> Recorded:
    """Writes the model into `folder`; fails when its weights are no longer those the logits belong to."""
    recorded = np.load(FIXTURE)
    shape = dataclasses.replace(tiny_models.SHAPES[name], seed=int(recorded[f"{name}.seed"]))
    tensors = tiny_models.weights(shape)
    known = str(recorded[f"{name}.digest"])
    assert tiny_models.digest(tensors) == known, "tiny_models changed: record the fixtures anew"
    hf_dir = tiny_models.make(folder / name, shape, tensors)
    convert_hf.convert(hf_dir, hf_dir.with_suffix(".gguf"), "f32")
    return Recorded(
        hf_dir,
        hf_dir.with_suffix(".gguf"),
        recorded[f"{name}.tokens"].tolist(),
        recorded[f"{name}.logits"],
        recorded[f"{name}.greedy"].tolist(),
    )
