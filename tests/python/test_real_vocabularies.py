"""Ids of real vocabularies equal those of Hugging Face's tokenizers built from the same tokens and merges, and those of
llama.cpp: over prose, code, many scripts, random Unicode and long runs."""

from __future__ import annotations

import json
import random
from pathlib import Path

import gguf
import pytest
import real_models
import tiny_tokenizers
import vocabulary_model

tokenizers = pytest.importorskip("tokenizers")

SPACE = "\u2581"
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4


def merges_by_score(tokens: list[str], scores: list[float], types: list[int]) -> list[tuple[str, str]]:
    """As transformers makes them of a SentencePiece vocabulary: every two tokens that are a third one, best first."""
    ids = {text: id_ for id_, text in enumerate(tokens)}
    merges = []
    for id_, text in enumerate(tokens):
        if types[id_] == NORMAL:
            halves = [(text[:at], text[at:]) for at in range(1, len(text))]
            known = sorted((ids[a], ids[b], a, b) for a, b in halves if a in ids and b in ids)
            merges += [(-scores[id_], left, right) for _, _, left, right in known]
    return [pair[1:] for pair in sorted(merges, key=lambda merge: merge[0])]


def reference(reader: gguf.GGUFReader) -> tokenizers.Tokenizer:
    """By Hugging Face's tokenizers, of the tokens and merges of a GGUF file."""

    def value(name: str):
        return reader.fields[f"tokenizer.ggml.{name}"].contents()

    tokens, types = value("tokens"), value("token_type")
    ids = {text: id_ for id_, text in enumerate(tokens)}
    is_spm = value("model") == "llama"
    if is_spm:
        ids = {text.replace(" ", SPACE) if types[id_] == USER_DEFINED else text: id_ for text, id_ in ids.items()}
        merges = merges_by_score(tokens, value("scores"), types)
        model = tokenizers.models.BPE(ids, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>")
        made = tokenizers.Tokenizer(model)
        made.normalizer = tokenizers.normalizers.Replace(" ", SPACE)
    else:
        merges = [tuple(merge.split(" ")) for merge in value("merges")]
        plain = json.loads(tokenizers.Tokenizer(tokenizers.models.BPE(ids, merges)).to_str())
        pre = tiny_tokenizers.PRE_TOKENIZERS[value("pre")]
        made = tokenizers.Tokenizer.from_str(json.dumps(plain | {"pre_tokenizer": pre}))
    for id_, text in enumerate(tokens):
        if types[id_] == CONTROL:
            made.add_special_tokens([tokenizers.AddedToken(text, special=True, normalized=False)])
    spaces = [(text.replace(" ", SPACE) if is_spm else text, is_spm and " " in text) for text in tokens]
    of_users = [spaces[id_] for id_ in range(len(tokens)) if types[id_] == USER_DEFINED]
    made.add_tokens([tokenizers.AddedToken(text, normalized=normalized) for text, normalized in of_users])
    return made


SCRIPTS = [
    list("aAbB \u00e9\u00f1"), [chr(c) for c in range(0x4E00, 0x4E80)], [chr(c) for c in range(0x900, 0x980)],
    [*(chr(c) for c in range(0x1F600, 0x1F650)), "\u200d", "\ufe0f"], [chr(c) for c in range(0x600, 0x700)],
    list(" \n\t\r\u00a0\u3000"), list("'stdm\u2019lLvVeE"), [*"0123456789", "\u00bd", "\u00b2", "\u0663"],
    list("{}()[];:=<>/\\|`~@#$%^&*"), [chr(c) for c in range(0x300, 0x370)],
]  # fmt: skip


def texts(root: Path, shared: Path) -> list[str]:
    rng = random.Random(3)
    prose = (shared / "wikitext-2-raw" / "wiki.test.raw").read_text()
    found = [prose[at : at + 3000] for at in range(0, 60000, 3000)]
    for path in sorted((shared / "vocab").glob("*.inp")):
        found += path.read_text().split("\n__ggml_vocab_test__\n")
    found += [path.read_text() for path in sorted((root / "engine" / "model").glob("*.cpp"))]
    for _ in range(500):
        found.append(
            "".join("".join(rng.choices(rng.choice(SCRIPTS), k=rng.randint(1, 4))) for _ in range(rng.randint(1, 10)))
        )
        blocks = [(0x20, 0x2FFF), (0x3000, 0xD7FF), (0xE000, 0x1FFFF)]
        found.append("".join(chr(rng.randint(*rng.choice(blocks))) for _ in range(rng.randint(1, 12))))
    runs = ["a", "A", " ", "\n", "\t", "1", "\u00e9", "=", "\u4f60", "\U0001f600", "ab", " a", ".\n"]
    return found + [run * n for run in runs for n in (2, 3, 7, 31, 100, 1001)]


@pytest.mark.slow
@pytest.mark.parametrize("name", real_models.FILES)
def test_ids_of_a_real_vocabulary(livekv, root, shared, tmp_path, name):
    path = real_models.path_of(name)
    reader = gguf.GGUFReader(path)
    ours = livekv.Model(vocabulary_model.write(reader, tmp_path / "vocabulary.gguf"), n_threads=1)
    theirs = reference(reader)
    for text in texts(root, shared):
        right = theirs.encode(text, add_special_tokens=False).ids
        assert ours.tokenize(text, add_special=False, parse_special=True) == right, repr(text[:200])


@pytest.mark.slow
@pytest.mark.parametrize("name", real_models.FILES)
def test_ids_equal_llama_cpps(livekv, root, shared, tmp_path, name):
    llama_cpp = pytest.importorskip("llama_cpp")
    path = real_models.path_of(name)
    ours = livekv.Model(vocabulary_model.write(gguf.GGUFReader(path), tmp_path / "vocabulary.gguf"), n_threads=1)
    theirs = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    for text in texts(root, shared):
        if any(mark in text for mark in ("</s>", "<EOT>", "<|")):
            continue  # which of these are control tokens llama.cpp decides by their texts
        right = theirs.tokenize(text.encode(), add_bos=False, special=True)
        assert ours.tokenize(text, add_special=False, parse_special=True) == right, repr(text[:200])
    for text in ("", "Hello", " Hello"):
        assert ours.tokenize(text) == theirs.tokenize(text.encode(), add_bos=True, special=False), text
