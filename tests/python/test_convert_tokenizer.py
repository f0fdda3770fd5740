"""What the converter makes of each kind of tokenizer."""

from __future__ import annotations

import copy

import convert_hf
import pytest
import tiny_models
import tiny_tokenizers
from convert_error import ConvertError
from gguf import GGUFReader
from tiny_models import SHAPES

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
BYTELEVEL, SPM = SHAPES["gqa_hd64"], SHAPES["hd8"]
WEIGHTS = {shape.name: tiny_models.weights(shape) for shape in (BYTELEVEL, SPM)}


def metadata(folder, shape, tokenizer=None, config=None, model_config=None, files=None) -> dict:
    """The tokenizer.* and livekv.tokenizer.* keys, without `tokenizer.` and `ggml.`, of the shape's model converted with these files."""
    tiny_models.make(folder, shape, WEIGHTS[shape.name])
    if tokenizer is not None:
        tiny_models.write_json(folder / "tokenizer.json", tokenizer)
    if config is not None:
        tiny_models.write_json(folder / "tokenizer_config.json", config)
    tiny_models.write_json(folder / "config.json", tiny_models.config(shape) | (model_config or {}))
    for name, content in (files or {}).items():
        (folder / name).write_bytes(content)
    convert_hf.convert(folder, folder.with_suffix(".gguf"), "f16")
    fields = GGUFReader(folder.with_suffix(".gguf")).fields
    return {
        key.replace("tokenizer.", "").removeprefix("ggml."): entry.contents()
        for key, entry in fields.items()
        if key.startswith(("tokenizer.", "livekv.tokenizer."))
    }


def test_byte_level_tokens_merges_and_types(tmp_path):
    tokenizer, _ = tiny_tokenizers.byte_level()
    got = metadata(tmp_path / "m", BYTELEVEL)
    n = len(tokenizer["model"]["vocab"])
    assert (got["model"], got["pre"]) == ("gpt2", "gpt-2")
    assert got["tokens"][:n] == list(tokenizer["model"]["vocab"])
    assert got["tokens"][n : n + 3] == ["<s>", "</s>", "<tag>"]
    assert got["merges"] == [" ".join(pair) for pair in tokenizer["model"]["merges"]]
    assert got["token_type"][:n] == [NORMAL] * n
    assert got["token_type"][n : n + 3] == [CONTROL, CONTROL, USER_DEFINED]
    assert (got["bos_token_id"], got["eos_token_id"]) == (n, n + 1)
    assert (got["add_bos_token"], got["add_eos_token"]) == (False, False)
    assert "scores" not in got and "unknown_token_id" not in got and "eot_token_id" not in got


def test_merges_may_be_strings_or_pairs(tmp_path):
    tokenizer, config = tiny_tokenizers.byte_level()
    pairs = metadata(tmp_path / "pairs", BYTELEVEL)
    tokenizer["model"]["merges"] = [" ".join(pair) for pair in tokenizer["model"]["merges"]]
    assert metadata(tmp_path / "strings", BYTELEVEL, tokenizer, config) == pairs


def test_vocabulary_is_padded_to_the_embedding(tmp_path):
    n_real = len(tiny_tokenizers.byte_level()[0]["model"]["vocab"]) + 3
    got = metadata(tmp_path / "m", BYTELEVEL)
    assert len(got["tokens"]) == len(got["token_type"]) == BYTELEVEL.n_vocab
    assert n_real < BYTELEVEL.n_vocab
    assert got["tokens"][n_real:] == [f"[PAD{id_}]" for id_ in range(n_real, BYTELEVEL.n_vocab)]
    assert set(got["token_type"][n_real:]) == {UNUSED} and UNUSED not in got["token_type"][:n_real]


def test_line_ends_in_an_expression_may_be_written_as_they_are(tmp_path):
    tokenizer, _ = tiny_tokenizers.byte_level()
    pre = copy.deepcopy(tiny_tokenizers.PRE_TOKENIZERS["deepseek-coder"])
    pre["pretokenizers"][0]["pattern"]["Regex"] = "[\r\n]"
    assert metadata(tmp_path / "m", BYTELEVEL, tokenizer | {"pre_tokenizer": pre})["pre"] == "deepseek-coder"


@pytest.mark.parametrize("name", tiny_tokenizers.PRE_TOKENIZERS)
def test_known_pre_tokenizers_are_named(tmp_path, name):
    tokenizer, _ = tiny_tokenizers.byte_level()
    pre_tokenizer = tiny_tokenizers.PRE_TOKENIZERS[name]
    assert metadata(tmp_path / "m", BYTELEVEL, tokenizer | {"pre_tokenizer": pre_tokenizer})["pre"] == name


LINES_ONLY = {"type": "Split", "pattern": {"Regex": "[\\r\\n]"}, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {
                "pre_tokenizer": {
                    "type": "Sequence",
                    "pretokenizers": [LINES_ONLY, tiny_tokenizers.BYTES_ONLY],
                }
            },
            'unknown pre_tokenizer (known are those of deepseek-coder, gpt-2, gpt-4o, llama-bpe, qwen2, qwen35, seed-coder, smollm, tekken): {"type": "Sequence", '
            '"pretokenizers": [{"type": "Split", "pattern": {"Regex": "[\\\\r\\\\n]"}',
        ),
        (
            {
                "pre_tokenizer": {
                    "type": "Sequence",
                    "pretokenizers": [LINES_ONLY | {"behavior": "Removed", "invert": True}, tiny_tokenizers.GPT2_PRE],
                }
            },
            "unknown pre_tokenizer",
        ),
        ({"pre_tokenizer": tiny_tokenizers.GPT2_PRE | {"add_prefix_space": True}}, "pre_tokenizer.add_prefix_space is True"),
        ({"pre_tokenizer": tiny_tokenizers.BYTES_ONLY}, "unknown pre_tokenizer"),
        ({"normalizer": {"type": "NFKC"}}, "normalizer NFKC is not supported"),
        ({"model": {"type": "WordPiece", "vocab": {}}}, "of type WordPiece"),
    ],
)
def test_byte_level_tokenizers_it_does_not_know_are_refused(tmp_path, change, message):
    tokenizer, _ = tiny_tokenizers.byte_level()
    with pytest.raises(ConvertError) as refused:
        metadata(tmp_path / "m", BYTELEVEL, tokenizer | change)
    assert message in str(refused.value)


def test_spm_json_tokens_scores_and_types(tmp_path):
    got = metadata(tmp_path / "m", SPM)
    pieces = tiny_tokenizers.spm_pieces()
    assert (got["model"], got["pre"]) == ("llama", "default")
    assert got["tokens"][: len(pieces)] == [text for text, _, _ in pieces]
    assert got["token_type"][: len(pieces)] == [type_ for _, _, type_ in pieces]
    assert (got["bos_token_id"], got["eos_token_id"], got["unknown_token_id"]) == (1, 2, 0)
    assert (got["add_bos_token"], got["add_eos_token"], got["add_space_prefix"]) == (True, False, True)
    assert got["livekv.merges"] == [" ".join(pair) for pair in tiny_tokenizers.spm_json()[0]["model"]["merges"]]
    score = dict(zip(got["tokens"], got["scores"]))
    merged = [left + right for left, right in tiny_tokenizers.spm_json()[0]["model"]["merges"]]
    assert [score[text] for text in merged] == [-float(rank) for rank in range(len(merged))]
    assert score["e"] == score["\u2581"] == -float(len(merged))  # letters come after every merge


def test_spm_model_gives_what_the_json_made_of_it_gives(tmp_path):
    proto = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")
    model = proto.ModelProto()
    model.trainer_spec.model_type = proto.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.remove_extra_whitespaces = False
    for text, score, type_ in tiny_tokenizers.spm_pieces():
        model.pieces.add(piece=text, score=score, type=type_)
    from_json = metadata(tmp_path / "json", SPM)
    tiny_models.make(tmp_path / "model", SPM, WEIGHTS[SPM.name])
    (tmp_path / "model" / "tokenizer.json").unlink()
    (tmp_path / "model" / "tokenizer.model").write_bytes(model.SerializeToString())
    config = tiny_tokenizers.spm_json()[1] | {"tokenizer_class": "LlamaTokenizer"}
    tiny_models.write_json(tmp_path / "model" / "tokenizer_config.json", config)
    convert_hf.convert(tmp_path / "model", tmp_path / "model.gguf", "f16")
    reader = GGUFReader(tmp_path / "model.gguf")
    for key in ("model", "pre", "tokens", "token_type", "bos_token_id", "eos_token_id", "add_bos_token"):
        assert reader.get_field(f"tokenizer.ggml.{key}").contents() == from_json[key], key
    scores = reader.get_field("tokenizer.ggml.scores").contents()
    assert scores[: len(model.pieces)] == [piece.score for piece in model.pieces]
    assert reader.get_field("tokenizer.ggml.add_space_prefix").contents() is True
    assert reader.get_field("tokenizer.ggml.remove_extra_whitespaces").contents() is False

    model.trainer_spec.model_type = proto.TrainerSpec.UNIGRAM
    (tmp_path / "model" / "tokenizer.model").write_bytes(model.SerializeToString())
    with pytest.raises(ConvertError, match="UNIGRAM"):
        convert_hf.convert(tmp_path / "model", tmp_path / "unigram.gguf", "f16")


@pytest.mark.parametrize("scheme, prefix", [("first", True), ("always", True), ("never", False)])
def test_metaspace_says_whether_a_space_is_put_in_front(tmp_path, scheme, prefix):
    tokenizer, _ = tiny_tokenizers.spm_json()
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": False}
    got = metadata(tmp_path / "m", SPM, tokenizer | {"normalizer": None, "pre_tokenizer": metaspace})
    assert got["add_space_prefix"] is prefix


@pytest.mark.parametrize(
    "change, message",
    [
        ({"normalizer": {"type": "Lowercase"}}, "Lowercase"),
        ({"normalizer": None}, "neither byte-level nor SentencePiece"),
        ({"model": {"type": "Unigram", "vocab": []}}, "of type Unigram"),
    ],
)
def test_other_json_tokenizers_are_refused(tmp_path, change, message):
    tokenizer, _ = tiny_tokenizers.spm_json()
    with pytest.raises(ConvertError, match=message):
        metadata(tmp_path / "m", SPM, tokenizer | change)


def test_folder_without_tokenizer_is_refused(tmp_path):
    folder = tiny_models.make(tmp_path / "m", SPM, WEIGHTS[SPM.name])
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConvertError, match="neither tokenizer.json nor tokenizer.model"):
        convert_hf.convert(folder, tmp_path / "m.gguf", "f16")


def template(before: list, after: list, **ids: int) -> dict:
    """A TemplateProcessing with these special tokens before and after the text."""

    def special(name):
        return {"SpecialToken": {"id": name, "type_id": 0}}

    single = [*map(special, before), {"Sequence": {"id": "A", "type_id": 0}}, *map(special, after)]
    tokens = {name: {"id": name, "ids": [id_], "tokens": [name]} for name, id_ in ids.items()}
    return {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": tokens}


def byte_level_with(post_processor) -> tuple[dict, dict, int]:
    """A tokenizer, its configuration and the id of its bos; that of its eos is the next."""
    tokenizer, config = tiny_tokenizers.byte_level()
    n = len(tokenizer["model"]["vocab"])
    return tokenizer | {"post_processor": post_processor(n)}, config, n


@pytest.mark.parametrize(
    "post_processor, added",
    [
        (lambda n: None, (False, False)),
        (lambda n: {"type": "ByteLevel"}, (False, False)),
        (lambda n: template(["s"], [], s=n), (True, False)),
        (lambda n: template([], ["e"], e=n + 1), (False, True)),
        (lambda n: template(["s"], ["e"], s=n, e=n + 1), (True, True)),
        (lambda n: {"type": "BertProcessing", "cls": ["<s>", n], "sep": ["</s>", n + 1]}, (True, True)),
        (lambda n: {"type": "RobertaProcessing", "cls": ["<s>", n], "sep": ["</s>", n + 1]}, (True, True)),
        (
            lambda n: {"type": "Sequence", "processors": [{"type": "ByteLevel"}, template(["s"], [], s=n)]},
            (True, False),
        ),
    ],
)
def test_the_post_processor_decides_about_bos_and_eos(tmp_path, capsys, post_processor, added):
    tokenizer, config, _ = byte_level_with(post_processor)
    got = metadata(tmp_path / "m", BYTELEVEL, tokenizer, config)
    assert (got["add_bos_token"], got["add_eos_token"]) == added
    for kind, is_added in zip(("bos", "eos"), added):
        against = metadata(tmp_path / kind, BYTELEVEL, tokenizer, config | {f"add_{kind}_token": not is_added})
        assert (against["add_bos_token"], against["add_eos_token"]) == added


@pytest.mark.parametrize(
    "post_processor, message",
    [
        (lambda n: template(["s", "s"], [], s=n), "{0}, {0} in front of a text"),
        (lambda n: template(["s"], [], s=5), "5 in front of a text; only the bos token"),
        (lambda n: template(["e"], [], e=n + 1), "{1} in front of a text; only the bos token"),
        (lambda n: template(["s"], ["s"], s=n), "{0} behind a text; only the eos token"),
        (lambda n: template(["s"], []), "special_tokens is 's', expected a token with ids"),
        (lambda n: template([], []) | {"single": []}, "expected a template with the text in it"),
        (lambda n: {"type": "BertProcessing", "cls": ["<s>", 5], "sep": ["</s>", n + 1]}, "5 in front of a text"),
        (lambda n: {"type": "BertProcessing", "cls": ["<s>", n], "sep": ["</s>"]}, "sep is .*, expected a token and"),
        (lambda n: {"type": "RobertaProcessing", "cls": ["<s>", n], "sep": ["x", 7]}, "7 behind a text"),
        (
            lambda n: {"type": "Sequence", "processors": [template(["s"], [], s=n), template(["s"], [], s=n)]},
            "{0}, {0} in front",
        ),
        (lambda n: {"type": "Another"}, "type is 'Another', expected ByteLevel, TemplateProcessing"),
    ],
)
def test_a_post_processor_that_adds_other_tokens_is_refused(tmp_path, post_processor, message):
    tokenizer, config, n = byte_level_with(post_processor)
    with pytest.raises(ConvertError, match=message.format(n, n + 1)):
        metadata(tmp_path / "m", BYTELEVEL, tokenizer, config)


def test_special_ids_come_from_the_tokenizer_before_the_configuration(tmp_path):
    tokenizer, config = tiny_tokenizers.byte_level()
    n = len(tokenizer["model"]["vocab"])
    ids = {"bos_token_id": 5, "eos_token_id": [n, n + 1], "pad_token_id": 7}
    by_name = metadata(tmp_path / "name", BYTELEVEL, None, config | {"eos_token": {"content": "</s>"}}, ids)
    assert (by_name["bos_token_id"], by_name["eos_token_id"], by_name["padding_token_id"]) == (n, n + 1, 7)
    by_number = metadata(tmp_path / "number", BYTELEVEL, None, {}, ids)
    assert (by_number["bos_token_id"], by_number["eos_token_id"]) == (5, n)


def test_end_of_turn_and_chat_template(tmp_path):
    tokenizer, config = tiny_tokenizers.byte_level()
    n = len(tokenizer["model"]["vocab"])
    tokenizer["added_tokens"].append(tiny_tokenizers.added(n + 3, "<|eot_id|>"))
    config["chat_template"] = "{{ messages }}"
    got = metadata(tmp_path / "config", BYTELEVEL, tokenizer, config)
    assert got["eot_token_id"] == n + 3
    assert got["chat_template"] == "{{ messages }}"
    file = {"chat_template.jinja": b"{{ bos_token }}"}
    assert metadata(tmp_path / "file", BYTELEVEL, None, config, files=file)["chat_template"] == "{{ bos_token }}"
    file = {"chat_template.json": b'{"chat_template": "{{ eos_token }}"}'}
    assert metadata(tmp_path / "json", BYTELEVEL, None, {}, files=file)["chat_template"] == "{{ eos_token }}"


def test_templates_in_a_folder_are_carried_by_name(tmp_path):
    folder = tiny_models.make(tmp_path / "m", BYTELEVEL, WEIGHTS[BYTELEVEL.name])
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    convert_hf.convert(folder, folder.with_suffix(".gguf"), "f16")
    fields = GGUFReader(folder.with_suffix(".gguf")).fields
    assert fields["tokenizer.chat_template"].contents() == "{{ messages }}"
    assert fields["tokenizer.chat_template.tool_use"].contents() == "{{ tools }}"


def test_a_tokenizer_in_mistrals_own_format_is_named(tmp_path):
    folder = tiny_models.make(tmp_path / "m", BYTELEVEL, WEIGHTS[BYTELEVEL.name])
    (folder / "tokenizer.json").rename(folder / "tekken.json")
    with pytest.raises(ConvertError, match="tekken.json is not read"):
        convert_hf.convert(folder, folder.with_suffix(".gguf"), "f16")


@pytest.mark.parametrize("normalizer", [{"type": "NFC"}, {"type": "Sequence", "normalizers": [{"type": "NFC"}]}])
def test_form_c_is_carried_over(tmp_path, normalizer):
    tokenizer, _ = tiny_tokenizers.byte_level()
    assert metadata(tmp_path / "m", BYTELEVEL, tokenizer | {"normalizer": normalizer})["livekv.nfc"] is True
    assert "livekv.nfc" not in metadata(tmp_path / "plain", BYTELEVEL, tokenizer)


def test_a_tokenizer_of_gemmas_rules(tmp_path):
    tokenizer, config = tiny_tokenizers.spm_json()
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    got = metadata(tmp_path / "m", SPM, tokenizer | {"normalizer": replace, "pre_tokenizer": split}, config)
    assert got["add_space_prefix"] is False and got["livekv.prepend_scheme"] == "never"
    assert got["livekv.normalizes_spaces"] is True
    with pytest.raises(ConvertError, match="is not one of SentencePiece's"):  # no space is replaced before
        metadata(tmp_path / "split", SPM, tokenizer | {"normalizer": None, "pre_tokenizer": split}, config)
