"""The trainer: a killed run goes on as if it had not been, a budget ends the schedule, the result works."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

import convert_hf  # noqa: E402

from python_eval.errors import EvalError  # noqa: E402
from python_eval.testbed import clean_text, corpus, train  # noqa: E402
from python_eval.testbed.feed import Feed  # noqa: E402
from python_eval.testbed.mix import Mixer, Shares  # noqa: E402
from python_eval.testbed.recipes import PRESETS, Recipe, Stage  # noqa: E402

TEXT = " ".join(
    f"The fox number {i} jumped over {i * 7 % 13} lazy dogs, and they did not mind it.\n\n" for i in range(400)
)
RECIPE = Recipe(
    n_embd=64, n_layer=1, n_head=2, n_head_kv=1, head_dim=32, n_ff=64, n_vocab=400, tokenizer_tasks=24, n_ctx=256,
    tokens=30 * 256, warmup_steps=5, micro_tokens=256,
    stages=(Stage(0.5, 128, 256, Shares(0.5, 0.25)), Stage(1.0, 256, 512, Shares(0.5, 0.25))),
)  # fmt: skip


class Killed(Exception):
    pass


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order, so that equal means equal
    yield
    torch.set_num_threads(before)


def trainer(out, recipe=RECIPE):
    return train.Trainer(recipe, [TEXT], {"fox": TEXT[:3000]}, out)


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_a_killed_run_resumes_to_the_same_weights(tmp_path, monkeypatch):
    trainer(tmp_path / "whole").run(eval_steps=10)
    draw = Feed.batch

    def draw_until_killed(self, step, stage):
        if step == 17:
            raise Killed
        return draw(self, step, stage)

    monkeypatch.setattr(Feed, "batch", draw_until_killed)
    with pytest.raises(Killed):
        trainer(tmp_path / "killed").run(eval_steps=10, checkpoint_seconds=0)
    monkeypatch.setattr(Feed, "batch", draw)
    again = trainer(tmp_path / "killed")
    again.resume()
    assert again.step == 17
    again.run(eval_steps=10)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    logs = [json.loads((tmp_path / name / "recipe.json").read_text())["log"] for name in ("whole", "killed")]
    for log in logs:
        for entry in log:
            del entry["seconds"]
    assert logs[0] == logs[1]


def test_other_options_do_not_continue_a_checkpoint(tmp_path):
    first = trainer(tmp_path)
    first.save_checkpoint()
    with pytest.raises(SystemExit, match="made with other options"):
        trainer(tmp_path, replace(RECIPE, seed=2)).resume()


class Clock:
    """Each look at it is a second later, and so many more where the process was stopped."""

    def __init__(self, stopped_at=()):
        self.now, self.looks, self.stopped_at = 0.0, 0, stopped_at

    def monotonic(self):
        self.looks += 1
        self.now += 10_000 if self.looks in self.stopped_at else 1
        return self.now


@pytest.mark.parametrize("stopped_at", [(), (42,)])
def test_a_time_budget_ends_the_whole_schedule_and_pauses_hardly_count(tmp_path, monkeypatch, stopped_at):
    slow = trainer(tmp_path, replace(RECIPE, tokens=10**9))
    monkeypatch.setattr(train.time, "monotonic", Clock(stopped_at).monotonic)
    rates = []
    step = slow.train_step
    monkeypatch.setattr(slow, "train_step", lambda progress: rates.append(progress) or step(progress))
    slow.run(budget_seconds=120.0, eval_steps=1000)
    assert slow.tokens < 10**6
    assert slow.log[-1]["seq_len"] == 256  # the last stage
    assert rates[-1] > 0.98 and slow.optimizers[0].param_groups[0]["lr"] < 0.05 * RECIPE.muon_rate
    # Every step is a second, but the one during which the process stood still, which counts as PAUSE_SECONDS.
    assert slow.step == (121 - train.PAUSE_SECONDS if stopped_at else 120)


def test_it_learns_and_its_result_converts_tokenizes_and_chats_alike(tmp_path, tools):
    trainer(tmp_path / "m", replace(RECIPE, tokens=60 * 256)).run()
    log = json.loads((tmp_path / "m" / "recipe.json").read_text())["log"]
    assert log[-1]["held_out_fox"] < 4.5  # ln 400 = 6.0 before training
    rows = list(csv.DictReader((tmp_path / "m" / "loss.csv").read_text().splitlines()))
    assert float(rows[-1]["held_out_fox"]) == log[-1]["held_out_fox"]
    convert_hf.convert(tmp_path / "m", tmp_path / "m.gguf", "f16")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tmp_path / "m" / "tokenizer.json"))
    for text in ("The fox jumped over 1234 dogs.", "  two spaces\n\n\nand lines", "caf\u00e9 \U0001f98a"):
        assert tools.tokenize(tmp_path / "m.gguf", text) == tokenizer.encode(text).ids


def test_its_result_is_what_transformers_computes(tmp_path):
    transformers = pytest.importorskip("transformers")
    trained = trainer(tmp_path, replace(RECIPE, tokens=2 * 256))
    trained.run()
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokens = torch.randint(0, 400, (2, 50), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = trained.model.logits(trained.model(tokens)), reference(tokens).logits
    scale = theirs.std()
    assert scale > 0.01
    torch.testing.assert_close(ours, theirs, atol=1e-5 * float(scale), rtol=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": " Hello "}], tokenize=False, add_generation_prompt=True
    )
    assert text == corpus.chat_head("user") + "Hello" + corpus.EOT + corpus.chat_head("assistant")


def test_worker_processes_draw_the_batches_that_one_process_draws():
    tokenizer = corpus.train_tokenizer([TEXT], 400)
    mixer = Mixer(tokenizer, corpus.token_stream(tokenizer, [TEXT]))
    alone, helped = Feed(mixer, 1), Feed(mixer, 1, n_workers=1)
    try:
        for step, stage in [(0, RECIPE.stages[0]), (1, RECIPE.stages[0]), (2, RECIPE.stages[1])]:
            for a, b in zip(alone.batch(step, stage), helped.batch(step, stage), strict=True):
                np.testing.assert_array_equal(a, b)
    finally:
        helped.close()


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_end_at_their_full_context(name):
    recipe = PRESETS[name]
    lengths = [stage.seq_len for stage in recipe.stages]
    assert lengths == sorted(lengths) and lengths[-1] == recipe.n_ctx and recipe.stages[-1].until == 1.0
    assert all(stage.batch_tokens % stage.seq_len == 0 for stage in recipe.stages)
    assert recipe.n_head % recipe.n_head_kv == 0
    with torch.device("meta"):
        n = sum(p.numel() for p in train.Llama(train.shape_of(recipe)).parameters())
    low, high = {"tiny": (4e6, 7.5e6), "small": (60e6, 150e6)}[name]  # 7.5 million are 8 MB as q8_0
    assert low < n < high


def test_books_lose_their_licence_and_line_breaks():
    book = (
        "Licence\n*** START OF THE PROJECT GUTENBERG EBOOK X ***\nIt was the\nbest of _times_,\n\n\u201cindeed.\u201d\n"
        "*** END OF THE PROJECT GUTENBERG EBOOK X ***\nmore licence"
    )
    assert clean_text.clean_book(book) == 'It was the best of times,\n\n"indeed."'
    wiki = " = Title = \n\n He said , well @-@ known ( as ever ) . "
    assert clean_text.clean_wiki(wiki) == "= Title = \n\n He said, well-known (as ever)."


def test_a_text_that_the_result_would_replace_is_refused(tmp_path, monkeypatch):
    text = tmp_path / "tokenizer.json"
    text.write_text("A text, under the name of a result.")
    monkeypatch.setattr(sys, "argv", ["train", "--text", str(text), "--out", str(tmp_path)])
    with pytest.raises(EvalError, match="tokenizer.json: it is the input itself"):
        train.run()
    assert text.read_text() == "A text, under the name of a result."
