"""The engine: every key that the gguf package knows for a model is used, harmless, or refused unless it is off."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import tiny_models
from gguf import GGUFReader, GGUFWriter, Keys
from recorded import make_recorded

# What the engine reads, and what changes nothing (engine/model/leftovers.cpp says why).
READ = {
    Keys.LLM.CONTEXT_LENGTH,
    Keys.LLM.EMBEDDING_LENGTH,
    Keys.LLM.BLOCK_COUNT,
    Keys.LLM.FEED_FORWARD_LENGTH,
    Keys.LLM.EXPERT_COUNT,
    Keys.Attention.HEAD_COUNT,
    Keys.Attention.HEAD_COUNT_KV,
    Keys.Attention.KEY_LENGTH,
    Keys.Attention.VALUE_LENGTH,
    Keys.Attention.LAYERNORM_RMS_EPS,
    Keys.Rope.DIMENSION_COUNT,
    Keys.Rope.FREQ_BASE,
    Keys.Rope.SCALING_TYPE,
    Keys.Rope.SCALING_FACTOR,
}
HARMLESS = {
    Keys.LLM.VOCAB_SIZE,
    Keys.LLM.TENSOR_DATA_LAYOUT,
    Keys.LLM.EXPERT_USED_COUNT,
    Keys.Attention.LAYERNORM_EPS,
    Keys.Rope.SCALING_ORIG_CTX_LEN,
    Keys.Rope.SCALING_FINETUNED,
    Keys.Rope.SCALING_YARN_BETA_FAST,
    Keys.Rope.SCALING_YARN_BETA_SLOW,
}
# What some architectures read, or only YaRN.
READ_BY_SOME = {
    Keys.Attention.SLIDING_WINDOW,
    Keys.Attention.SLIDING_WINDOW_PATTERN,
    Keys.Attention.SCALE,
    Keys.Rope.FREQ_BASE_SWA,
    Keys.Rope.SCALING_ATTN_FACTOR,
}


def known_keys(space: type) -> list[str]:
    """The keys of a class of gguf's constants and of the classes in it that belong to an architecture."""
    found = []
    for name, value in vars(space).items():
        if isinstance(value, type) and not name.startswith("_"):
            found += known_keys(value)
        elif isinstance(value, str) and "{arch}" in value and "{dense}" not in value:
            found.append(value)
    return found


ALL = sorted(set(known_keys(Keys)))
OTHERS = [key for key in ALL if key not in READ | HARMLESS]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> GGUFReader:
    return GGUFReader(make_recorded("hd8", tmp_path_factory.mktemp("source")).model)


@pytest.fixture
def with_key(source, tmp_path):
    """Writes the tiny model anew with one more key, or one changed."""

    def write(key: str, value: object, type_: gguf.GGUFValueType, element: gguf.GGUFValueType | None = None):
        out = tmp_path / "m.gguf"
        writer = GGUFWriter(out, "llama")
        for name, entry in source.fields.items():
            if name not in (key, "general.architecture") and not name.startswith("GGUF."):
                each = entry.types[-1] if entry.types[0] == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(name, entry.contents(), entry.types[0], each)
        writer.add_key_value(key, value, type_, element)
        for tensor in source.tensors:
            writer.add_tensor(tensor.name, tensor.data)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return out

    return write


def test_the_package_still_names_what_the_lists_here_name():
    assert len(OTHERS) > 60 and set(ALL) >= READ | HARMLESS


@pytest.mark.parametrize("key", OTHERS)
def test_a_key_that_is_not_read_is_refused_by_name_unless_off(livekv, with_key, key):
    key = key.format(arch="llama")
    types = gguf.GGUFValueType
    values = [(7, types.UINT32), (0.5, types.FLOAT32), (float("nan"), types.FLOAT32), ("some", types.STRING)]
    if key == "llama.attention.causal":
        values.append((False, types.BOOL))
    for value, type_ in values:
        with pytest.raises(livekv.Error, match=f"key '{key}' is .* not supported"):
            livekv.Model(with_key(key, value, type_), n_threads=1)
    for element in ([0.0, 0.5], ["a", "b"]):
        each = types.STRING if isinstance(element[0], str) else types.FLOAT32
        with pytest.raises(livekv.Error, match=f"key '{key}' is .* not supported"):
            livekv.Model(with_key(key, element, types.ARRAY, each), n_threads=1)
    neutral = (True, types.BOOL) if key == "llama.attention.causal" else (0, types.UINT32)
    livekv.Model(with_key(key, *neutral), n_threads=1)


@pytest.mark.parametrize("key", sorted(HARMLESS))
def test_harmless_keys_change_no_logit(livekv, source, with_key, key):
    def logits(path) -> np.ndarray:
        session = livekv.Model(path, n_threads=1).session(n_ctx=64, kv=livekv.KVOptions.parse("f16"))
        return session.eval(list(range(3, 40)), all_logits=True)

    plain = logits(source.data.filename)
    types = gguf.GGUFValueType
    text = key == Keys.LLM.TENSOR_DATA_LAYOUT
    changed = with_key(key.format(arch="llama"), "reference" if text else 9, types.STRING if text else types.UINT32)
    np.testing.assert_array_equal(logits(changed), plain)


def test_the_converter_writes_no_key_that_the_engine_leaves_out(tmp_path):
    for name in tiny_models.SHAPES:
        reader = GGUFReader(make_recorded(name, tmp_path).model)
        prefix = reader.get_field("general.architecture").contents() + "."
        written = {key.replace(prefix, "{arch}.", 1) for key in reader.fields if key.startswith(prefix)}
        assert len(written) > 10 and written <= READ | HARMLESS | READ_BY_SOME


# Of the tokenizer: what the engine reads, and ids of tokens that no text gets by itself.
TOKENIZER_READ = {
    Keys.Tokenizer.MODEL,
    Keys.Tokenizer.PRE,
    Keys.Tokenizer.LIST,
    Keys.Tokenizer.TOKEN_TYPE,
    Keys.Tokenizer.SCORES,
    Keys.Tokenizer.MERGES,
    Keys.Tokenizer.BOS_ID,
    Keys.Tokenizer.EOS_ID,
    Keys.Tokenizer.EOT_ID,
    Keys.Tokenizer.EOM_ID,
    Keys.Tokenizer.UNK_ID,
    Keys.Tokenizer.ADD_BOS,
    Keys.Tokenizer.ADD_EOS,
    Keys.Tokenizer.ADD_PREFIX,
    Keys.Tokenizer.REMOVE_EXTRA_WS,
}
TOKENIZER_REFUSED = {Keys.Tokenizer.ADD_SEP, Keys.Tokenizer.PRECOMPILED_CHARSMAP}
TOKENIZER_ALL = {key for key in vars(Keys.Tokenizer).values() if str(key).startswith("tokenizer.ggml.")}


def test_harmless_keys_of_the_tokenizer_are_passed_over(livekv, source, with_key):
    text = "The <s> and the\n other."
    plain = livekv.Model(source.data.filename, n_threads=1).tokenize(text, parse_special=True)
    harmless = TOKENIZER_ALL - TOKENIZER_READ - TOKENIZER_REFUSED
    assert len(harmless) >= 13
    for key in harmless | {"tokenizer.ggml.cls_token_id", "tokenizer.ggml.separator_token_id"}:
        changed = livekv.Model(with_key(key, 9, gguf.GGUFValueType.UINT32), n_threads=1)
        assert changed.tokenize(text, parse_special=True) == plain, key


@pytest.mark.parametrize(
    "key",
    [
        Keys.Tokenizer.ADD_SEP,
        "tokenizer.ggml.normalizer.lowercase",
        "tokenizer.ggml.suppress_tokens",
        "tokenizer.ggml.treat_whitespace_as_suffix",
        "tokenizer.ggml.no_such_key",
        "livekv.tokenizer.no_such_key",
        "livekv.no_such_key",
    ],
)
def test_a_key_of_the_tokenizer_that_is_not_read_is_refused_by_name_unless_off(livekv, with_key, key):
    types = gguf.GGUFValueType
    for value, type_, shown in ((True, types.BOOL, "1"), (7, types.UINT32, "7"), ("some", types.STRING, "a text")):
        with pytest.raises(livekv.Error, match=f"key '{key}' is {shown}, which is not supported and may change what a text"):
            livekv.Model(with_key(key, value, type_), n_threads=1)
    with pytest.raises(livekv.Error, match=f"key '{key}' is an array"):
        livekv.Model(with_key(key, [1, 2], types.ARRAY, types.INT32), n_threads=1)
    livekv.Model(with_key(key, False, types.BOOL), n_threads=1)


def test_flags_of_added_tokens_without_the_tokens_are_refused(livekv, tmp_path, with_key):
    reader = GGUFReader(with_key("livekv.tokenizer.added_tokens", 0, gguf.GGUFValueType.UINT32))
    assert reader.get_field("livekv.tokenizer.added_token_flags") is not None
    out = tmp_path / "flags.gguf"
    out.write_bytes(bytes(reader.data).replace(b"livekv.tokenizer.added_tokens", b"general.xxxxx.tokenizer.added"))
    with pytest.raises(livekv.Error, match="added_token_flags is there without livekv.tokenizer.added_tokens"):
        livekv.Model(out, n_threads=1)
