"""livekv-cli -cnv: lines in, answers out, and what each turn reads. The model answers with a chain of tokens, by family
behind ']' or a line's end: " hello friend" and its end of text."""

from __future__ import annotations

import json
import os
import subprocess

import numpy as np
import pytest

import tiny_models
from chat_templates import TEMPLATES
from convert import convert_hf
from tiny_models import SHAPES

INST = "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"


def chain_model(folder, template):
    """Each token has one successor: greedy text is a chain."""
    shape = SHAPES["hd8"]
    tiny_models.make(folder, shape)
    ids = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    chain = {"<0x5D>": "\u2581the", "]": "\u2581the", "<0x0A>": "\u2581the", "\n": "\u2581the", "\u2581the": "\u2581and", "\u2581and": "</s>"}
    tensors = {name: np.zeros_like(tensor) for name, tensor in tiny_models.weights(shape).items()}
    rng = np.random.default_rng(5)
    embedding = rng.standard_normal((shape.n_vocab, shape.n_embd)).astype(np.float32)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    output = np.zeros_like(embedding)
    for token, follower in chain.items():
        if token in ids:
            output[ids[follower]] += embedding[ids[token]]
    for name, tensor in tensors.items():
        if name.endswith("norm.weight"):
            tensor[:] = 1
    tensors |= {"model.embed_tokens.weight": embedding, "lm_head.weight": output}
    tiny_models.save_safetensors(folder / "model.safetensors", tensors)
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"chat_template": template}))
    convert_hf.convert(folder, folder.with_suffix(".gguf"), "f32")
    return folder.with_suffix(".gguf")


@pytest.fixture(scope="module")
def chat(tools, tmp_path_factory):
    """chat(template, lines, options): the finished run, and the last turn's statistics."""
    models = {}

    def run(template, lines: bytes, *options):
        if template not in models:
            models[template] = chain_model(tmp_path_factory.mktemp("chat") / "model", template)
        stats = models[template].with_suffix(".json")
        command = [tools.bin_dir / "livekv-cli", "-m", models[template], "-cnv", "-n", "12", "--temp", "0", "-t", "1",
                   "--stats", stats, *options]  # fmt: skip
        done = subprocess.run(command, input=lines, capture_output=True, timeout=120, env=os.environ)
        return done, json.loads(stats.read_text()) if stats.exists() else None

    return run


def notes(done):
    return [line for line in done.stderr.decode().splitlines() if line.startswith("livekv-cli: ")]


FAMILIES = {"own mistral": INST, "angle_roles": TEMPLATES["angle_roles"], "chatml_default": TEMPLATES["chatml_default"],
            "inst_sys": TEMPLATES["inst_sys"], "marks of llama2": "<<SYS>>[INST]"}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_a_turn_reads_what_is_new(chat, name):
    lines = [b"hi\n", b"hi you\n", b"hi all\n", b"hi two\n"]
    n_prompt = []
    for n in range(1, 5):
        done, stats = chat(FAMILIES[name], b"".join(lines[:n]))
        assert done.returncode == 0 and done.stdout == b" the and\n" * n, done
        assert notes(done) == [] if "marks" not in name else len(notes(done)) == 1
        n_prompt.append(stats["n_prompt"])
    assert n_prompt[2] <= n_prompt[1] + 4 and n_prompt[3] <= n_prompt[1] + 4, n_prompt


def test_a_template_that_rewrites_former_turns_says_so(chat):
    done, _ = chat(TEMPLATES["inst_last"], b"hi\nyou\n", "--system", "Be brief.")
    assert done.returncode == 0 and done.stdout == b" the and\n" * 2
    (note,) = notes(done)
    assert "the model's template rewrites former turns" in note and "tokens of them were read again" in note


def test_a_line_that_is_none_ends_no_chat(chat):
    done, stats = chat(INST, b"hi\r\n\r\n\n\xff\xfe\nthe\xc3\nyou\r\n")
    assert done.returncode == 0 and done.stdout == b" the and\n" * 2
    assert notes(done) == ["livekv-cli: a line is not valid UTF-8 and is skipped"] * 2
    same, stats_of_same = chat(INST, b"hi\nyou\n")
    assert stats["n_prompt"] == stats_of_same["n_prompt"] and notes(same) == []


def test_a_message_longer_than_the_context_ends_no_chat(chat):
    long = b"the " * 400 + b"\n"
    done, stats = chat(INST, b"hi\n" + long + b"you\n", "-c", "200")
    assert done.returncode == 0 and done.stdout == b" the and\n" * 2
    (note,) = notes(done)
    assert "the context holds 200 tokens" in note and note.endswith("; the line is skipped")
    _, stats_of_same = chat(INST, b"hi\nyou\n", "-c", "200")
    assert stats["n_prompt"] == stats_of_same["n_prompt"]
    given, _ = chat(INST, b"hi\n", "-c", "200", "-p", long.decode())
    assert given.returncode == 1 and given.stdout == b"" and "the context holds 200 tokens" in notes(given)[0]


def test_control_tokens_that_are_typed_are_text(chat, livekv):
    done, stats = chat(INST, b"</s>\n")
    assert done.returncode == 0
    _, other = chat(INST, b"abcd\n")
    assert stats["n_prompt"] >= other["n_prompt"]  # four characters, not one token


def test_a_family_can_be_forced(chat):
    _, own = chat(TEMPLATES["plain"], b"hi\n")
    done, forced = chat(TEMPLATES["plain"], b"hi\n", "--chat-template", "zephyr")
    assert done.returncode == 0 and notes(done) == [] and done.stdout == b" the and\n"
    assert forced["n_prompt"] != own["n_prompt"]
    for options in (["--chat-template", "vicuna"],):
        done, _ = chat(TEMPLATES["plain"], b"hi\n", *options)
        assert done.returncode == 2 and len(notes(done)) == 1 and b"one of own, llama2" in done.stderr


def test_a_model_without_a_template_says_how_to_go_on(chat):
    for template in (None, "{% for m in messages %}"):
        done, _ = chat(template, b"hi\n")
        assert done.returncode == 1 and done.stdout == b""
        (line,) = done.stderr.decode().splitlines()
        assert "chat template" in line and "or name a known format with --chat-template: llama2, llama3, chatml, gemma" in line
    for name, mark in (("gemma", "<end_of_turn>"), ("phi3", "<|end|>"), ("mistral-v3", "[/INST]"),
                       ("mistral-v7-tekken", "[SYSTEM_PROMPT]"), ("llama2", None), ("zephyr", None)):  # fmt: skip
        done, stats = chat(None, b"hi\nho\n", "--chat-template", name)
        said = [line for line in notes(done) if "warning: the vocabulary has no " in line]
        assert done.returncode == 0 and notes(done) == said and stats["n_prompt"] > 1
        assert len(said) == (mark is not None) and all(mark in line and f"{name} chats" in line for line in said)


def test_a_template_that_reads_no_messages_is_passed_over_in_words(chat):
    done, _ = chat("'[INST] ' + content", b"hi\n")
    assert done.returncode == 0
    (line,) = notes(done)
    assert line.endswith("the model's chat template reads no messages, by its marks its chats are of the family mistral")


def test_what_a_template_refuses_is_one_line(chat):
    template = "{{ raise_exception('no ' + messages[0].role + ' here') }}"
    done, _ = chat(template, b"hi\n")
    assert done.returncode == 1 and notes(done) == ["livekv-cli: the model's chat template: no user here"]
    done, _ = chat("{% for m in messages %}", b"hi\n")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
