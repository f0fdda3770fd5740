"""JSON and JSONL that evaluations and the converter read, changed at random: read, or refused in one line.

    PYTHONPATH=. python tests/fuzz/fuzz_jsonl.py --executions 1000000 --seed 1
    PYTHONPATH=. python tests/fuzz/fuzz_jsonl.py --seconds 60

Ends with status 1 at the first input whose answer is wrong, and writes it beside its traceback. tests/python/
test_fuzz_jsonl.py runs some thousands.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

sys.path.extend(str(Path(__file__).resolve().parents[2] / folder) for folder in ("convert", "tests/python"))

import hf_checkpoint
import hf_config
import hf_tokenizer
import tiny_tokenizers
from convert_error import ConvertError

from python_eval.errors import EvalError
from python_eval.longbench import data, score
from python_eval.longbench.tasks import TASKS
from python_eval.report.read import Results, read_json, read_results
from python_eval.run_folder import RunFolder
from python_eval.windows import FIELDS, RECORDS


@dataclass(frozen=True)
class MemoryPath:
    """A file, and any folder, in memory: what the readers ask of a Path. Every name in it is this file."""

    content: bytes
    name: str = "input.jsonl"

    def __truediv__(self, name: str) -> MemoryPath:
        return MemoryPath(self.content, name)

    def __str__(self) -> str:
        return self.name

    def is_file(self) -> bool:
        return True

    is_dir = exists = is_file

    def stat(self) -> SimpleNamespace:
        return SimpleNamespace(st_size=len(self.content))

    def read_bytes(self) -> bytes:
        return self.content

    def read_text(self, encoding: str) -> str:
        return self.content.decode(encoding)

    def open(self, mode: str, buffering: int = -1) -> io.BytesIO:
        del mode, buffering
        return io.BytesIO(self.content)


def _read_samples(path: Any) -> None:
    data.read_samples(path, TASKS["trec"])
    data.read_samples(path, TASKS["qasper"], e=True)


def _score_v1(path: Any) -> None:
    samples = data.read_predictions(path)
    for name in ("trec", "qasper", "passage_count", "lcc"):
        score.score_task(TASKS[name], samples)
    score.score_buckets(TASKS["trec"], samples)


def _score_v2(path: Any) -> None:
    score.score_v2(data.read_rows(path))


def _records(path: Any) -> None:
    folder = RunFolder.__new__(RunFolder)  # a folder's own files are not what is read here
    folder.path = path
    for record in folder.records(RECORDS, FIELDS):
        json.dumps(record, ensure_ascii=False).encode()
    Results(path, "perplexity", {}, {}).records(RECORDS, FIELDS)


def _report(path: Any) -> None:
    read_json(path)
    results = read_results(path)
    results.title, results.about  # noqa: B018
    results.rows("table.json")


def _config(path: Any) -> None:
    hf_config.read_hparams(hf_checkpoint.read_json(path))


@dataclass(frozen=True)
class MemoryFolder:
    """A folder of these files."""

    files: Mapping[str, bytes]

    def __truediv__(self, name: str) -> Any:
        return MemoryPath(self.files[name], name) if name in self.files else SimpleNamespace(exists=lambda: False)


def _read_vocab(folder: MemoryFolder, config: dict) -> None:
    """Of files in memory, which have no links and no pipes; elsewhere files stay what they are."""
    exists = mock.patch.object(hf_tokenizer, "has_file", lambda path: path.exists())
    with exists, mock.patch.object(hf_tokenizer, "files_in", lambda folder, pattern: []):
        hf_tokenizer.read_vocab(folder, config, 400)  # type: ignore[arg-type]


def _tokenizer(path: Any) -> None:
    config = {"vocab_size": 400, "bos_token_id": 1, "eos_token_id": 2}
    _read_vocab(MemoryFolder({"tokenizer.json": path.content}), config)


def _tokenizer_config(path: Any) -> None:
    names = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "added_tokens.json")
    _read_vocab(
        MemoryFolder({"tokenizer.json": _dumps(_BYTE_LEVEL), **dict.fromkeys(names, path.content)}), {"vocab_size": 400}
    )


def _safetensors(path: Any) -> None:
    header = path.content
    whole = MemoryPath(len(header).to_bytes(8, "little") + header + bytes(64), "model.safetensors")
    hf_checkpoint._open_safetensors(whole)  # type: ignore[arg-type]


_V1 = {
    "context": "Some text.", "input": "What?", "answers": ["this", "that"], "all_classes": ["this", "that", "none"],
    "length": 4711, "pred": "this\nor that", "_id": "x1", "dataset": "trec", "language": "en",
}  # fmt: skip
_V2 = {
    "_id": "y", "domain": "d", "sub_domain": "s", "difficulty": "easy", "length": "short", "question": "Q", "choice_A": "a",
    "choice_B": "b", "choice_C": "c", "choice_D": "d", "answer": "A", "context": "c",
    "response": "The correct answer is (A)",
}  # fmt: skip
_RECORD = {
    "spec": "livekv", "text": "wiki", "window": 3, "chunk_size": 512, "n_scored": 9, "nll_mean": 2.5, "kl_mean": None,
    "same_top": 0.5, "bits_per_value": 4.41, "arrays": "arrays/a.npz", "more": {"mean": 0.1, "se": [1, None]},
}  # fmt: skip
_RUN = {"command": "perplexity", "model": {"file": "m.gguf"}, "n_ctx": 2048, "texts": {"wiki": {"windows": 3}}, "base": "f16", "rows": [_RECORD]}
_TENSORS = {
    "a": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
    "b": {"dtype": "BF16", "shape": [16], "data_offsets": [32, 64]},
    "__metadata__": {"format": "pt"},
}


_BYTE_LEVEL, _NAMES = tiny_tokenizers.byte_level()
_SPM, _ = tiny_tokenizers.spm_json()
_NAMES |= {"add_bos_token": True, "chat_template": "{{ messages }}", "<tag>": 300, "eos_token_id": [2, 7], "legacy": False}
_CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 400, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512, "rope_theta": 1e4, "tie_word_embeddings": False, "head_dim": 16,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                     "original_max_position_embeddings": 512},
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    read: Callable[[Any], object]
    seed: dict[str, Any]
    lines: int  # 1: a JSON file, more: JSONL


TARGETS = {
    "samples": Target(_read_samples, _V1, 2),
    "predictions": Target(_score_v1, _V1, 2),
    "v2": Target(data.read_v2, _V2, 2),
    "v2-scores": Target(_score_v2, _V2, 2),
    "records": Target(_records, _RECORD, 3),
    "report": Target(_report, _RUN, 1),
    "config": Target(_config, _CONFIG, 1),
    "tokenizer-config": Target(_tokenizer_config, _NAMES, 1),
    "tokenizer-bytelevel": Target(_tokenizer, _BYTE_LEVEL, 1),
    "tokenizer-spm": Target(_tokenizer, _SPM, 1),
    "safetensors": Target(_safetensors, _TENSORS, 1),
}  # fmt: skip

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, 10**5000, 0.5, 1e308, float("nan"), float("inf"), "", "x", "\ud800",
    "\x00", "a\nb", "\u2028", "\ufeff", [], [1], ["x"], [None], {}, {"x": None}, [[]], {"": {}},
)  # fmt: skip
FRAGMENTS = (
    b"\n", b"\r\n", b"\r", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\\ud800", b"\\ude00", b"\\u0000", b"NaN", b"-Infinity",
    b"1e999", b"9" * 5000, b"-0", b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b"null", b"true", b"{}", b"[" * 3000,
    b'{"":' * 3000, b" ", b"\t", b"\xed\xa0\x80", b"\xc3", b"\xe2\x80\xa8", b"#", b"0x1", b"01",
)  # fmt: skip


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything in a JSON value."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _dumps(record: Any) -> bytes:
    with contextlib.suppress(ValueError):  # a number of too many digits
        return json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return b'{"n": ' + b"9" * 5000 + b"}"


def changed(target: Target, rng: random.Random) -> bytes:
    """An input of the target's kind: right ones, changed as JSON and as bytes."""
    lines = []
    for _ in range(rng.randint(1, target.lines)):
        record = json.loads(json.dumps(target.seed))
        for _ in range(rng.choice((0, 1, 1, 2))):
            places = list(_places(record))
            if not places:
                break
            container, key = rng.choice(places)
            if rng.random() < 0.25:
                del container[key]
            else:
                container[key] = copy.deepcopy(rng.choice(ODD_VALUES))
        lines.append(_dumps(record))
    text = bytearray(b"\n".join(lines) + rng.choice((b"", b"\n", b"\n", b"\n\n")))
    for _ in range(rng.choice((0, 0, 1, 2, 4))):
        at = rng.randrange(len(text) + 1)
        how = rng.randrange(4)
        if how == 0:
            text[at:at] = rng.choice(FRAGMENTS)
        elif how == 1:
            del text[at : at + rng.randint(1, 9)]
        elif how == 2 and at < len(text):
            text[at] ^= 1 << rng.randrange(8)
        else:
            end = rng.randrange(len(text) + 1)
            text[at:at] = text[min(at, end) : max(at, end)]
    return bytes(text)


def problem_of(target: Target, content: bytes) -> str:
    """What is wrong with the target's answer to an input; empty: nothing."""
    try:
        target.read(MemoryPath(content))
    except (EvalError, ConvertError) as refused:
        message = str(refused)
        if not message or not message.isprintable():
            return f"not one printable line: {message[:500]!r}"
    except Exception:
        return traceback.format_exc()
    return ""


def run(names: list[str], executions: int, seconds: float, seed: int) -> tuple[dict[str, int], str]:
    """Executions by target, as many of each, until one limit is met; and what was wrong, with the input."""
    rng = random.Random(seed)
    counts = dict.fromkeys(names, 0)
    end = time.monotonic() + seconds
    while sum(counts.values()) < executions and time.monotonic() < end:
        for name in names:
            content = changed(TARGETS[name], rng)
            counts[name] += 1
            if problem := problem_of(TARGETS[name], content):
                return counts, f"{name}: {problem}\ninput: {content[:2000]!r}"
    return counts, ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executions", type=int, default=sys.maxsize)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", choices=list(TARGETS), action="append", help="by default all of them")
    given = parser.parse_args()
    counts, problem = run(given.target or list(TARGETS), given.executions, given.seconds, given.seed)
    print(f"{sum(counts.values())} executions: " + ", ".join(f"{name} {n}" for name, n in counts.items()))
    if problem:
        print(problem, file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
