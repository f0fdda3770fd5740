"""A folder's tokens are those of AutoTokenizer of transformers 5, whatever its files say of each other."""

from __future__ import annotations

import json

import pytest
import tiny_tokenizers
import vocabulary_model
from convert_error import ConvertError
from gguf import TokenType
from hf_tokenizer import read_vocab
from hf_vocab import LSTRIP, NORMALIZED, RSTRIP, SINGLE_WORD

hypothesis = pytest.importorskip("hypothesis")
pytest.importorskip("sentencepiece.sentencepiece_model_pb2")
transformers = pytest.importorskip("transformers", minversion="5")
import hf_folders  # noqa: E402
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

ROWS = 400
MODEL = hf_folders.sentencepiece_model()


@pytest.fixture(autouse=True)
def quiet():
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(level)


def added_of(vocab) -> dict:
    """id -> (text, special, lstrip, rstrip, single_word, normalized), with what the file says of those it can say of."""
    bits = (LSTRIP, RSTRIP, SINGLE_WORD, NORMALIZED)
    found = {}
    for id_, flags in vocab.added.items():
        known = vocab.types[id_] not in (TokenType.UNKNOWN, TokenType.BYTE)  # those stay what they are
        special = vocab.types[id_] == TokenType.CONTROL if known else None
        found[id_] = (special, *(bool(flags & bit) for bit in bits))
    return found


def check(livekv, folder, files: dict[str, bytes], texts) -> str | None:
    """That all tokens are transformers'; the reason where the converter refuses the folder."""
    theirs = transformers.AutoTokenizer.from_pretrained(hf_folders.write(folder, files))
    try:
        vocab = read_vocab(folder, json.loads(files["config.json"]), ROWS)
    except ConvertError as refused:
        return str(refused)
    ours = livekv.Model(vocabulary_model.of_vocab(vocab, folder.with_suffix(".gguf")), n_threads=1)
    # Words and letters of the vocabulary that a file makes special: merging never leads to a control token here.
    mergeable = {id_ for id_ in vocab.added if vocab.types[id_] == TokenType.CONTROL and vocab.tokens[id_][0] != "<"}
    added = added_of(vocab)
    expected = {
        id_: (token.special, token.lstrip, token.rstrip, token.single_word, token.normalized)
        for id_, token in theirs.added_tokens_decoder.items()
    }
    assert added.keys() == expected.keys()
    assert all(added[id_] in (expected[id_], (None, *expected[id_][1:])) for id_ in added), (added, expected)
    for text in texts:
        try:
            ids = theirs.encode(text, add_special_tokens=False)
        except BaseException as problem:
            # Tokens that overlap in what they take along make the package panic; other vocabularies lack its <unk>.
            if type(problem).__name__ != "PanicException" and "not found in the vocabulary" not in str(problem):
                raise
            continue
        found = ours.tokenize(text, add_special=False, parse_special=True)
        assert found == ids or not mergeable.isdisjoint(ids), (text, type(theirs).__name__)
    return None


part = st.sampled_from((*hf_folders.CONTENTS, "the", "and", " ", "  ", " the", "a", "e\u0301", "1234", "'s", "\n", "\u2581"))
some_texts = st.lists(st.lists(part | st.text(max_size=2), max_size=8).map("".join), min_size=4, max_size=8)
REFUSED = ("puts a space in front of texts, which is not supported", "which the vocabulary lacks")


def test_any_folder_has_the_tokens_of_transformers(tmp_path, livekv):
    n_same = 0

    @settings(max_examples=300, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(hf_folders.folders(MODEL), some_texts)
    def same(files, texts):
        nonlocal n_same
        try:
            transformers.AutoTokenizer.from_pretrained(hf_folders.write(tmp_path / "m", files))
        except Exception:  # what it does not read cannot be compared
            return
        refused = check(livekv, tmp_path / "m", files, texts)
        assert refused is None or any(reason in refused for reason in REFUSED), refused
        n_same += refused is None

    same()
    assert n_same > 200


SPM, BYTE_LEVEL = hf_folders.SPM, hf_folders.BYTE_LEVEL
N = len(BYTE_LEVEL["model"]["vocab"])
LLAMA = {"tokenizer_class": "LlamaTokenizer"}
# A tokenizer.model whose merges go another way than those of tokenizer.json, and whose </s> is a plain piece.
OTHER_MODEL = hf_folders.sentencepiece_model(
    [(text, score, 1 if text == "</s>" else type_) for text, score, type_ in tiny_tokenizers.spm_pieces()][:-4]
)
# Two pieces that a text can be cut into, the better score behind: pieces merge in the order they stand in.
ORDERED_MODEL = hf_folders.sentencepiece_model(
    [*tiny_tokenizers.spm_pieces(), ("ea", -200.0, 1), ("at", -0.5, 1)]
)
TAG = {key: value for key, value in tiny_tokenizers.added(N + 2, "<tag>").items() if key != "id"}


def folder_of(config: dict, tokenizer: dict | None = SPM, model_type: str = "llama", **files) -> dict[str, bytes]:
    data = {"config.json": {"model_type": model_type}, "tokenizer_config.json": config, **files}
    if tokenizer is not None:
        data["tokenizer.json"] = tokenizer
    return {name: content if isinstance(content, bytes) else json.dumps(content).encode() for name, content in data.items()}


def spm_with(*added: dict) -> dict:
    return SPM | {"added_tokens": [*SPM["added_tokens"], *added]}


FOLDERS = {
    "mistral, both": folder_of(LLAMA | {"legacy": True}, model_type="mistral", **{"tokenizer.model": OTHER_MODEL}),
    "llama, both": folder_of(LLAMA | {"legacy": False}, **{"tokenizer.model": OTHER_MODEL}),
    "another class, both": folder_of({"tokenizer_class": "NoSuchTokenizer"}, **{"tokenizer.model": OTHER_MODEL}),
    "no class, both": folder_of({}, **{"tokenizer.model": OTHER_MODEL}),
    "mistral, model": folder_of(LLAMA, None, "mistral", **{"tokenizer.model": OTHER_MODEL}),
    "llama, model": folder_of(LLAMA, None, **{"tokenizer.model": OTHER_MODEL}),
    "llama, order": folder_of(LLAMA, None, **{"tokenizer.model": ORDERED_MODEL}),
    "qwen2, flags": folder_of(
        {"pad_token": {"__type": "AddedToken", "content": "<x>", "lstrip": True, "special": True}}, BYTE_LEVEL, "qwen2"
    ),
    "llama, json": folder_of(LLAMA),
    "legacy": folder_of(LLAMA | {"legacy": True}),
    "null": folder_of(LLAMA | {"add_prefix_space": None, "legacy": None}),
    "code llama": folder_of({"tokenizer_class": "CodeLlamaTokenizerFast"}),
    "a word is unknown": folder_of(LLAMA | {"unk_token": "the"}),
    "a letter is unknown": folder_of(
        {"unk_token": {"__type": "AddedToken", "content": "t", "single_word": True, "special": True}}, model_type="gemma3_text"
    ),
    "eos is unknown": folder_of(LLAMA | {"unk_token": "</s>"}),
    "gemma": folder_of({}, model_type="gemma3_text"),
    "class in config.json": folder_of({}, **{"config.json": {"model_type": "llama"} | LLAMA}),
    "qwen2": folder_of({"tokenizer_class": "PreTrainedTokenizerFast"}, BYTE_LEVEL, "qwen2"),
    "llama 3 as llama": folder_of(LLAMA, BYTE_LEVEL),
    "gpt2": folder_of({"tokenizer_class": "GPT2Tokenizer"}, BYTE_LEVEL),
    "gpt2 without": folder_of({"tokenizer_class": "GPT2Tokenizer", "bos_token": None, "eos_token": "</s>"}, BYTE_LEVEL),
    "list, flags": folder_of({}, BYTE_LEVEL, **{"added_tokens.json": {"<tag>": N + 2, "<x>": N + 3}}),
    "list, taken": folder_of({}, BYTE_LEVEL, **{"added_tokens.json": {"<x>": N, "<y>": N + 9, "<tag>": 3}}),
    "list, special": folder_of({"pad_token": "<x>"}, BYTE_LEVEL, **{"added_tokens.json": {"<x>": N + 3, "<y>": N + 4}}),
    "twice, in the list": folder_of({}, spm_with(tiny_tokenizers.added(1, "<s>") | {"lstrip": True})),
    "twice, by name": folder_of(
        {
            "pad_token": {"__type": "AddedToken", "content": "<x>", "lstrip": True, "special": True},
            "mask_token": {"__type": "AddedToken", "content": "<x>", "rstrip": True, "special": True},
            "extra_special_tokens": ["<x>"],
        },
        BYTE_LEVEL,
    ),
    "twice, plain in the decoder": folder_of(
        {"added_tokens_decoder": {str(N + 2): TAG | {"rstrip": True}}, "pad_token": "<tag>"}, BYTE_LEVEL
    ),
}  # fmt: skip
TEXTS = ("the the", " the", "</s>the", "</s> the", "<x> the<x>", "the  <tag> 12 e\u0301", "a<s> b", "<unk>and", "<|endoftext|>the", "eat <x>  eat")


@pytest.mark.parametrize("name", FOLDERS)
def test_these_folders_have_the_tokens_of_transformers(tmp_path, livekv, name):
    assert check(livekv, tmp_path / "m", FOLDERS[name], TEXTS) is None


@pytest.mark.parametrize("count", [0, 2, 255, 256])
@pytest.mark.parametrize("config", [LLAMA, {}, LLAMA | {"add_prefix_space": False}])
def test_a_character_without_a_token_is_unknown_or_left_out_as_there(tmp_path, livekv, config, count):
    vocab = {text: id_ for text, id_ in SPM["model"]["vocab"].items() if not text.startswith("<0x") or id_ < count + 3}
    tokenizer = SPM | {"model": SPM["model"] | {"vocab": {text: id_ for id_, text in enumerate(vocab)}}}
    assert check(livekv, tmp_path / "m", folder_of(config, tokenizer), ("the \u4f60\u597d and", "Q", "\x00\x01")) is None


@pytest.mark.parametrize(
    "config, message",
    [
        ({"split_special_tokens": True}, "split_special_tokens is True, expected false"),
        ({"fast_tokenizer_files": ["tokenizer.4.0.json"]}, "only tokenizer.json is read"),
        ({"tokenizer_class": "CohereTokenizerFast"}, "a CohereTokenizer in its own way"),
        ({"fix_mistral_regex": True}, "fix_mistral_regex is True, expected false"),
    ],
)
def test_what_changes_tokens_and_is_not_read_is_refused(tmp_path, config, message):
    folder = hf_folders.write(tmp_path / "m", folder_of(config, BYTE_LEVEL))
    with pytest.raises(ConvertError, match=message):
        read_vocab(folder, {"model_type": "mistral" if "fix_mistral_regex" in config else "llama"}, ROWS)


def test_a_class_of_byte_level_needs_tokenizer_json(tmp_path):
    files = folder_of({"tokenizer_class": "GPT2Tokenizer"}, None, **{"tokenizer.model": MODEL})
    with pytest.raises(ConvertError, match="needs tokenizer.json"):
        read_vocab(hf_folders.write(tmp_path / "m", files), {"model_type": "llama"}, ROWS)


def test_a_name_that_only_the_class_gives_does_not_hide_config_json(tmp_path):
    folder = hf_folders.write(tmp_path / "m", FOLDERS["gpt2"])
    vocab = read_vocab(folder, {"model_type": "llama", "bos_token_id": N}, N + 3)
    assert (vocab.bos, vocab.eos) == (N, None)
    assert [note.split(" lies")[0] for note in vocab.notes] == [f"token {N + 3} ('<|endoftext|>')"]
