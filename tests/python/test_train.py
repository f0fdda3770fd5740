"""The training script: a killed run continues to the very weights of one that was not."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import convert_hf  # noqa: E402
from python_eval.testbed import corpus, train  # noqa: E402

TEXT = " ".join(f"The fox number {i} jumped over {i * 7 % 13} lazy dogs, and they did not mind it.\n\n" for i in range(400))
RECIPE = train.Recipe(n_embd=64, n_layer=1, n_head=1, n_head_kv=1, n_ff=64, n_vocab=320, n_ctx=64, tokens=40 * 256,
                      batch_tokens=256, warmup_steps=5, stages=((0.5, 32), (0.5, 64)))  # fmt: skip


class Killed(Exception):
    pass


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_a_killed_run_resumes_to_the_same_weights(tmp_path, monkeypatch):
    train.train(RECIPE, [TEXT], [TEXT[:3000]], tmp_path / "whole", threads=1)
    calls = 0
    draw = train.draw_batch

    def draw_until_killed(*arguments):
        nonlocal calls
        calls += 1
        if calls == 25:
            raise Killed
        return draw(*arguments)

    monkeypatch.setattr(train, "draw_batch", draw_until_killed)
    with pytest.raises(Killed):
        train.train(RECIPE, [TEXT], [TEXT[:3000]], tmp_path / "killed", threads=1, checkpoint_seconds=0)
    monkeypatch.setattr(train, "draw_batch", draw)
    train.train(RECIPE, [TEXT], [TEXT[:3000]], tmp_path / "killed", resume=True, threads=1)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_it_learns_and_its_result_converts_and_tokenizes_alike(tmp_path, tools):
    train.train(RECIPE, [TEXT], [TEXT[:3000]], tmp_path / "m", threads=1)
    log = json.loads((tmp_path / "m" / "recipe.json").read_text())["log"]
    assert log[-1]["held_out"] < 4.5  # ln 320 = 5.8 before training
    convert_hf.convert(tmp_path / "m", tmp_path / "m.gguf", "f16")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tmp_path / "m" / "tokenizer.json"))
    for text in ("The fox jumped over 1234 dogs.", "  two spaces\n\n\nand lines", "caf\u00e9 \U0001f98a"):
        assert tools.tokenize(tmp_path / "m.gguf", text) == tokenizer.encode(text).ids


def test_other_options_do_not_continue_a_checkpoint(tmp_path, monkeypatch):
    train.train(RECIPE, [TEXT], [], tmp_path / "m", threads=1, checkpoint_seconds=0)
    other = train.Recipe(**{**RECIPE.__dict__, "seed": 2})
    with pytest.raises(SystemExit, match="made with other options"):
        train.train(other, [TEXT], [], tmp_path / "m", resume=True, threads=1)


def test_books_lose_their_licence_and_line_breaks():
    book = ("Licence\n*** START OF THE PROJECT GUTENBERG EBOOK X ***\nIt was the\nbest of _times_,\n\n\u201cindeed.\u201d\n"
            "*** END OF THE PROJECT GUTENBERG EBOOK X ***\nmore licence")  # fmt: skip
    assert corpus.clean_book(book) == 'It was the best of times,\n\n"indeed."'
    assert corpus.clean_wiki(" = Title = \n\n He said , well @-@ known ( as ever ) . ") == "= Title = \n\n He said, well-known (as ever)."
