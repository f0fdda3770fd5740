"""Texts to measure on: UTF-8 files, and wikitext by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .errors import EvalError, printable
from .files import require_file

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


def load_text(name: str, data_dir: Path | None) -> tuple[str, str]:
    """(short name, text) of a file; of `wikitext` from `data_dir`, without one from ./data or else from the hub."""
    if name != "wikitext":
        return printable(Path(name).stem), read_text(Path(name))
    folder = data_dir or Path("data")
    places = [folder / place for place in WIKITEXT_PLACES]
    found = next((place for place in places if place.is_file()), None)
    if found is not None:
        return "wikitext", read_text(found)
    if data_dir is not None:
        raise EvalError(f"wikitext is not in {data_dir} (looked for {', '.join(WIKITEXT_PLACES)}); name the file")
    from .hub import wikitext_splits

    return "wikitext", wikitext_splits()["test"]


def read_text(path: Path) -> str:
    """The file's text; EvalError where it cannot be read or is not UTF-8."""
    require_file(path, "a text")
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as problem:
        raise EvalError(f"{path}: cannot read: {problem.strerror}") from None
    except UnicodeDecodeError as problem:
        raise EvalError(f"{path}: not UTF-8 at byte {problem.start}") from None


def cut_windows(
    model: Vocabulary, names: Sequence[str], n_ctx: int, n_windows: int, data_dir: Path | None = None
) -> list[Window]:
    """The first `n_windows` windows (0: all) of `n_ctx` tokens of every text, a rest left out.

    A window begins where the one before ended; the engine puts <bos> in place of its first token when it measures, as
    livekv-perplexity does. Texts go by their short names, which must differ.
    """
    windows: list[Window] = []
    for name in names:
        short, text = load_text(name, data_dir)
        if any(window.text == short for window in windows):
            raise EvalError(f"two texts are called {short}; give one of the files another name")
        tokens = model.tokenize(text)
        available = len(tokens) // n_ctx
        if available < max(1, n_windows):
            wanted = f"{n_windows} windows" if n_windows > 1 else "one window"
            raise EvalError(f"{name}: {len(tokens)} tokens are too few for {wanted} of {n_ctx}")
        windows += [
            Window(short, index, tuple(tokens[index * n_ctx : (index + 1) * n_ctx]))
            for index in range(n_windows or available)
        ]
    return windows
