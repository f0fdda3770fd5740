"""Plain files in, clean paragraphs out.

Project Gutenberg books lose their licence header and footer and their hard line breaks, so that the model learns
paragraphs and not the width of a page. WikiText's spaced-out punctuation is joined again for the same reason.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..texts import read_text

_GUTENBERG_BODY = re.compile(r"\*\*\* ?START OF TH[^\n]*\n(.*?)\n\*\*\* ?END OF TH", re.S)
# Curly quotation marks and apostrophes, the long dash, the byte order mark.
_QUOTES = str.maketrans(
    {"\u201c": '"', "\u201d": '"', "\u2018": "'", "\u2019": "'", "\u2014": "--", "\ufeff": None}
)


def clean_book(text: str) -> str:
    """A Gutenberg text without licence, illustrations, emphasis marks and line wrapping."""
    body = _GUTENBERG_BODY.search(text.replace("\r\n", "\n"))
    text = (body.group(1) if body else text).translate(_QUOTES).replace("_", "")
    text = re.sub(r"\[Illustration[^\]]*\]", "", text)
    paragraphs = (" ".join(p.split()) for p in re.split(r"\n\s*\n", text))
    return "\n\n".join(p for p in paragraphs if p)


def clean_wiki(text: str) -> str:
    """WikiText-2 raw with its detached punctuation joined to the words again."""
    text = re.sub(r" @([-,.])@ ", r"\1", text)
    text = re.sub(r" ([,.;:!?)\]'])", r"\1", text)
    text = re.sub(r"([(\[]) ", r"\1", text)
    return re.sub(r"\n\s*\n", "\n\n", text).strip()


def load_texts(paths: list[Path]) -> list[str]:
    """Read and clean each file; a file whose name holds `wiki` is WikiText, anything else a book. EvalError for one
    that cannot be read or is not UTF-8."""
    return [
        (clean_wiki if "wiki" in path.name else clean_book)(read_text(path).replace("\r\n", "\n").replace("\r", "\n"))
        for path in paths
    ]
