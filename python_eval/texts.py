"""Texts to measure on: UTF-8 files, and wikitext by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .errors import EvalError

# Where `wikitext` is looked for below the data folder: the WikiText-2 test file, raw.
WIKITEXT_PLACES = ("wikitext/wiki.test.raw", "wikitext-2-raw/wiki.test.raw", "wiki.test.raw")


class Vocabulary(Protocol):
    """What cutting a text into windows needs of a model."""

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Ids, with the special tokens a text gets unless told otherwise."""


@dataclass(frozen=True)
class Window:
    """Consecutive tokens of a text that fill the context once."""

    text: str  # name of the text
    index: int  # of the window in its text
    tokens: tuple[int, ...]  # [n_ctx]


def find_text(name: str, data_dir: Path) -> Path:
    """The file of `wikitext` (below `data_dir`), or `name` itself as a path."""
    if name != "wikitext":
        return Path(name)
    places = [data_dir / place for place in WIKITEXT_PLACES]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        looked = ", ".join(map(str, places))
        raise EvalError(f"wikitext is not in {data_dir} (looked for {looked}); fetch it or name the file")
    return found


def read_text(path: Path) -> str:
    """The file's text; EvalError where there is none or it is not UTF-8."""
    if not path.is_file():
        raise EvalError(f"{path}: no such file")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as problem:
        raise EvalError(f"{path}: not UTF-8 at byte {problem.start}") from None


def cut_windows(
    model: Vocabulary, names: Sequence[str], n_ctx: int, n_windows: int, data_dir: Path = Path("data")
) -> list[Window]:
    """The first `n_windows` windows (0: all) of `n_ctx` tokens of every text, a rest left out.

    A window begins where the one before ended; the engine puts <bos> in place of its first token when it measures, as
    livekv-perplexity does. Texts are named by their files, which must differ.
    """
    windows: list[Window] = []
    seen: dict[str, Path] = {}
    for path in (find_text(name, data_dir) for name in names):
        if path.stem in seen:
            raise EvalError(f"two texts are called {path.stem}: {seen[path.stem]} and {path}")
        seen[path.stem] = path
        tokens = model.tokenize(read_text(path))
        available = len(tokens) // n_ctx
        if available < max(1, n_windows):
            raise EvalError(f"{path}: {len(tokens)} tokens make {available} windows of {n_ctx}, not {max(1, n_windows)}")
        windows += [
            Window(path.stem, index, tuple(tokens[index * n_ctx : (index + 1) * n_ctx]))
            for index in range(n_windows or available)
        ]
    return windows
