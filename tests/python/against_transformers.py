"""A converted folder's tokens beside those of transformers, which reads the same folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import convert_hf
import pytest


def check_ids(livekv: Any, folder: Path, texts: Iterable[str], *, parse_special: bool = True) -> None:
    """That every text has the same tokens, and where they are those of text alone that they give it back. Skips without
    transformers 5, which alone builds tokenizers as the converter reads them."""
    transformers = pytest.importorskip("transformers", minversion="5")
    gguf = folder.with_suffix(".gguf")
    convert_hf.convert(folder, gguf, "f16")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = livekv.Model(gguf, n_threads=1)
    for text in texts:
        ids = ours.tokenize(text, add_special=False, parse_special=parse_special)
        assert ids == theirs.encode(text, add_special_tokens=False), text
        assert parse_special or ours.detokenize(ids, skip_special=False) == text
