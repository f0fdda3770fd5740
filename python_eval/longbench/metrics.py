"""LongBench's metrics: a prediction against one gold answer, 0 to 1.

Written from the rules of the official `LongBench/metrics.py` so that they give its numbers to the last digit, quirks
included; where a rule is a quirk, its function says so. The caller takes the first line where the task wants that and
the best gold (score.py).
"""

from __future__ import annotations

import re
import string
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from functools import cache
from typing import Any

from rouge import Rouge  # type: ignore[import-untyped]

from .tasks import PARAGRAPHS, LongBenchError

Metric = Callable[[str, str, Sequence[str]], float]
"""(prediction, gold answer, all classes of the task) -> score; only classification looks at the classes."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
# The benchmark's own list; string.punctuation is taken out as well.
_ZH_PUNCTUATION = (
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～"
    "｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏."
)
_NO_ZH_PUNCTUATION = str.maketrans("", "", string.punctuation + _ZH_PUNCTUATION)


def qa_f1(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """F1 of the word multisets, without case, punctuation and English articles."""
    return _f1(_words(prediction), _words(answer))


def qa_f1_zh(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """F1 of the multisets of jieba's words, without case and punctuation."""
    return _f1(_words_zh(prediction), _words_zh(answer))


def rouge(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """ROUGE-L F1 at summary level (package `rouge`: sentences end at `.`, words are counted once); 0 for empty text.

    The package finds a common subsequence by recursion, one frame a word. The official score is 0 where that runs out
    of frames (Python allows 1000), which depends on the caller's own depth; here the limit is raised first.
    """
    depth = len(prediction.split()) + len(answer.split()) + 1000
    if depth > sys.getrecursionlimit():
        sys.setrecursionlimit(depth)
    try:
        scores = _rouge().get_scores([prediction], [answer])
    except ValueError:  # no sentence on one side
        return 0.0
    return float(scores[0]["rouge-l"]["f"])


def rouge_zh(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """ROUGE-L F1 over jieba's words."""
    return rouge(" ".join(_cut(prediction)), " ".join(_cut(answer)))


def classification(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """1 / number of class names found in the prediction if the gold is one of them, else 0.

    A class that is a part of the gold's name does not count. Quirk: the class found right after one so dropped is
    itself not examined, and counts.
    """
    found: list[str] = []
    dropped = False
    for name in (name for name in classes if name in prediction):
        dropped = not dropped and name != answer and name in answer
        if not dropped:
            found.append(name)
    return 1.0 / len(found) if answer in found else 0.0


def retrieval(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """Share of the prediction's numbers that are the gold's paragraph number."""
    return _share_of_numbers(prediction, _paragraph("retrieval", answer))


def retrieval_zh(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """As `retrieval`, the gold written 段落N."""
    return _share_of_numbers(prediction, _paragraph("retrieval_zh", answer))


def count(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """Share of the prediction's numbers that are the gold."""
    return _share_of_numbers(prediction, answer)


def code_similarity(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """Similarity in whole percents of the first line without a backquote, `#` or `//` to the gold.

    This is difflib's ratio, with its junk heuristic from 200 characters on. The official code asks `fuzzywuzzy`, which
    gives this ratio or, where python-Levenshtein happens to be installed, an edit ratio that is 2 points higher; the
    official numbers are those of difflib.
    """
    lines = prediction.lstrip("\n").split("\n")
    line = next((line for line in lines if not any(mark in line for mark in ("`", "#", "//"))), "")
    if line == answer:
        return 1.0
    if not line or not answer:
        return 0.0
    return round(100 * SequenceMatcher(None, line, answer).ratio()) / 100


METRICS: dict[str, Metric] = {
    metric.__name__: metric
    for metric in (qa_f1, qa_f1_zh, rouge, rouge_zh, classification, retrieval, retrieval_zh, count, code_similarity)
}


def _f1(prediction: list[str], answer: list[str]) -> float:
    common = (Counter(prediction) & Counter(answer)).total()
    if common == 0:
        return 0.0
    precision, recall = common / len(prediction), common / len(answer)
    return 2 * precision * recall / (precision + recall)


def _words(text: str) -> list[str]:
    # Punctuation goes first: "a-b" is the word "ab", and "U.S." is "us".
    return _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


def _words_zh(text: str) -> list[str]:
    words = ("".join(word.lower().translate(_NO_ZH_PUNCTUATION).split()) for word in _cut(text))
    return [word for word in words if word]


def _share_of_numbers(prediction: str, wanted: str) -> float:
    numbers = re.findall(r"\d+", prediction)
    return numbers.count(wanted) / len(numbers) if numbers else 0.0


def _paragraph(metric: str, answer: str) -> str:
    found = PARAGRAPHS[metric].search(answer)
    if not found:
        raise LongBenchError(f"the answer '{answer}' names no paragraph")
    return found.group(1)


@cache
def _rouge() -> Any:
    return Rouge(metrics=["rouge-l"], stats=["f"])


@cache
def _jieba() -> Any:
    # Only when Chinese is scored: its dictionary takes time and memory.
    with warnings.catch_warnings():
        # jieba 0.42.1 is the last release. It asks setuptools for pkg_resources and does without where there is none,
        # and some of its patterns are plain strings with backslashes, of which Python warns when it compiles them.
        warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
        warnings.filterwarnings("ignore", message=r"(?s).*invalid escape sequence")
        import jieba  # type: ignore[import-untyped]

        jieba.setLogLevel("WARNING")
        jieba.initialize()
    return jieba


def _cut(text: str) -> list[str]:
    return list(_jieba().cut(text, cut_all=False))
