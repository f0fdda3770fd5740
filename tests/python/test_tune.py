"""Tuning: the space reaches the presets, hypervolume by hand, searches that resume and share a storage."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

livekv = pytest.importorskip("livekv", reason="the livekv package is not built")
optuna = pytest.importorskip("optuna", reason="requirements/eval.txt is not installed")

from python_eval.errors import EvalError  # noqa: E402
from python_eval.tune import search  # noqa: E402
from python_eval.tune.__main__ import main  # noqa: E402
from python_eval.tune.front import hypervolume, hypervolume_over_trials, pareto  # noqa: E402
from python_eval.tune.outcome import comparison_rows  # noqa: E402
from python_eval.tune.space import SPACE, SPACES, Choice, cache_spec, fixed, params_of, space_of  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
STORY = ROOT / "tests" / "models" / "story.gguf"
TEXT = ROOT / "tests" / "data" / "war-and-peace-opening.txt"
OPTIONS = ["--model", STORY, "--data", TEXT, "--n-ctx", 256, "--windows", 1, "--held-out", 2, "--threads", 1]
OPTIONS += ["--fix", "chunk-size=64", "warmup-chunks=1"]


def run(out: Path, *options: object) -> int:
    return main([str(one) for one in (*OPTIONS, "--out", out, *options)])


def trials(out: Path) -> list[dict]:
    return json.loads((out / "trials.json").read_text())["rows"]


@pytest.fixture
def fake(monkeypatch):
    """Measurements made up from the spec: fewer bits, more divergence; and the specs that were asked for."""
    asked: list[str] = []

    def measure(self, spec: str):
        asked.append(spec)
        kv = livekv.KVOptions.parse(spec)
        bits = kv.kv_bits if isinstance(kv.kv_bits, tuple) else (kv.kv_bits,)
        total = bits[0] + bits[-1] + 100 * kv.outlier_ratio
        return {"bits_per_value": total / 2, "kl_windows": [math.exp(-total), math.exp(-total) / 2], "nll_mean": 1.0}

    monkeypatch.setattr(search.Evaluation, "__call__", measure)
    return asked


# --- the space ---


@pytest.mark.parametrize("name", search.PRESETS)
def test_the_space_reaches_every_preset(name):
    params = params_of(search.preset_options(name), SPACE)
    assert params is not None
    there, wanted = livekv.KVOptions.parse(cache_spec(params)), livekv.KVOptions.preset(name)
    # Generated text is not part of a measurement, and the published outliers are one share for both sides.
    assert there == wanted.replace(
        seal_decode=True,
        v_outlier_ratio=wanted.outlier_ratio if wanted.v_outlier_ratio == "same" else wanted.v_outlier_ratio,
    )


@pytest.mark.parametrize("policy", ["kvstream", "guided"])
def test_the_spaces_of_other_policies_reach_their_presets(policy):
    for name in search.presets_of(policy):
        params = params_of(search.preset_options(name, policy), space_of(policy))
        assert livekv.KVOptions.parse(cache_spec(params, policy)) == livekv.KVOptions.preset(name, policy=policy)
    held = fixed(space_of(policy), ["chunk-size=64", "sink-tokens=3"], policy)
    kv = livekv.KVOptions.parse(cache_spec(params_of(search.preset_options("default", policy), held), policy))
    assert (kv.policy, kv.chunk_size, kv.sink_tokens) == (policy, 64, 3)
    with pytest.raises(livekv.Error, match=f"the cache {policy} does not read it"):
        fixed(space_of(policy), ["rotate=none"], policy)
    with pytest.raises(livekv.Error, match="there is no option 'k-bits'"):
        fixed(space_of(policy), ["k-bits=3"], policy)
    assert search.presets_of("livekv") == ("default", "small", "tiny", "quality", "reference")


@pytest.mark.parametrize("policy", SPACES)
def test_every_value_of_a_space_is_one_the_engine_knows(policy):
    for one in SPACES[policy]:
        for value in getattr(one, "values", None) or (one.low, one.high):
            flag = "kv-bits" if one.option in ("k-bits", "v-bits") else one.option
            needed = ":propagate=cache" if one.option == "budget" else ""
            livekv.KVOptions.parse(f"{policy}:{flag}={value}{needed}")


def test_options_can_be_held_at_a_value():
    space = fixed(SPACE, ["chunk-size=64", "k-bits=3", "rotate=none"])
    params = params_of(search.preset_options("default"), space)
    kv = livekv.KVOptions.parse(cache_spec(params))
    assert (kv.chunk_size, kv.kv_bits, kv.rotate, kv.sink_tokens) == (64, (3, 4), "none", 4)
    for text, message in (("rotate", "not OPTION=VALUE"), ("k-bits=7", "k-bits is one of"), ("x=1", "no option 'x'")):
        with pytest.raises((EvalError, livekv.Error), match=message):
            fixed(SPACE, [text])


# --- fronts ---


def test_the_front_is_what_nobody_beats():
    points = [(4.0, 0.1), (3.0, 0.2), (4.0, 0.05), (5.0, 0.05), (3.0, 0.2), (9.0, 0.01)]
    assert pareto(points) == [1, 2, 5]


def test_hypervolume_by_hand():
    # 12 bits by 3 decades; a better point to the right adds what lies below; one beaten or outside adds nothing.
    assert hypervolume([(4.0, 1e-3)]) == pytest.approx(36)
    assert hypervolume([(4.0, 1e-3), (8.0, 1e-4)]) == pytest.approx(36 + 8)
    assert hypervolume([(8.0, 1e-4), (4.0, 1e-3), (9.0, 1e-2)]) == pytest.approx(44)
    assert hypervolume([(16.0, 1e-3), (4.0, 1.0)]) == hypervolume([]) == 0.0
    assert hypervolume([(4.0, 0.0)]) == pytest.approx(12 * 7)  # no divergence counts as 1e-7
    assert hypervolume_over_trials([[(4.0, 1e-3)], [], [(8.0, 1e-4)]]) == pytest.approx([36, 36, 44])


def test_methods_are_compared_seed_by_seed():
    curves = [
        {"method": m, "seed": s, "hypervolume": [v, v, v, v + d]}
        for m, s, v, d in (("random", 1, 10, 0), ("random", 2, 20, 0), ("bayesian", 1, 11, 1), ("bayesian", 2, 22, 1))
    ]
    first, second = comparison_rows(curves, 4)
    assert first["difference after all"] is None and first["hypervolume after all"].mean == 15
    # After half 1 and 2 more, after all 2 and 3.
    assert (second["difference after half"].mean, second["difference after all"].mean) == (1.5, 2.5)
    assert second["difference after all"].se == pytest.approx(0.5)


# --- searches ---


def test_a_search_measures_presets_first_and_goes_on(tmp_path, capsys):
    assert run(tmp_path, "--trials", 7, "--method", "random", "--json", "-") == 0
    content = json.loads(capsys.readouterr().out)
    first = trials(tmp_path)
    assert [row["preset"] for row in first[:6]] == ["default", "small", "tiny", "quality", "reference", None]
    measured = {row["spec"]: row for row in first if row["refused"] is None}
    # The numbers are those of a measurement of the same cache.
    model = livekv.Model(STORY)
    again = livekv.fidelity(
        model, model.tokenize(TEXT.read_text())[:256], n_ctx=256, kv=livekv.KVOptions.parse(first[0]["spec"]),
        base=livekv.KVOptions.parse("f16:chunk-size=64"), n_threads=1,
    )  # fmt: skip
    assert first[0]["kl_mean"] == pytest.approx(again.kl_mean, rel=1e-12)
    assert first[0]["bits_per_value"] == again.bits_per_value
    # The best within a preset's bits is no worse than the preset, and was measured on windows the search never saw.
    for row in content["best"]:
        assert row["best_kl_mean"] <= row["kl_mean"] and row["best_bits_per_value"] <= row["bits_per_value"]
        assert row["kl_diff_held_out"]["n"] == 2 and row["spec"] in measured
    assert run(tmp_path, "--trials", 8, "--method", "random") == 0
    both = trials(tmp_path)
    assert both[:7] == first and len(both) == 8
    assert len({row["spec"] for row in both if row["spec"]}) == sum(bool(row["spec"]) for row in both)


def test_windows_that_read_no_sealed_key_measure_nothing(tmp_path, fake, capsys):
    assert run(tmp_path, "--trials", 2, "--fix", "chunk-size=256") == 1
    assert capsys.readouterr().err == (
        "tune: no trial could be measured; the first: no sealed key is read in windows of 256 tokens\n"
    )
    assert fake == []


def test_what_the_engine_refuses_is_pruned_with_its_reason(tmp_path, fake):
    space = tuple(Choice("sink-tokens", ("600",)) if one.option == "sink-tokens" else one for one in SPACE)
    one = search.Search(f"journal:{tmp_path / 'log'}", "s", "random", 1, 3)
    study = search.create(one, {"a": 1}, space)
    search.Share(one, search.Task("m", ((1,) * 2048,), "f16", 0, 1, space)).run()
    ended = study.get_trials(states=search.ENDED)
    assert [trial.state.name for trial in ended] == ["PRUNED"] * 3 and fake == []
    assert ended[0].user_attrs["refused"].startswith("sink_tokens: 600 is more than the chunk size")


def test_the_same_cache_is_not_measured_twice(tmp_path, fake):
    held = [f"{one.option}={value}" for one in SPACE if (value := getattr(one, "values", ("",))[0])]
    held += ["outlier-ratio=0", "v-outlier-ratio=0", "ema-alpha=0.1", "clip-factor=4", "warmup-chunks=1"]
    one = search.Search(f"journal:{tmp_path / 'log'}", "s", "evolutionary", 1, 5)
    space = fixed(SPACE, held)
    search.create(one, {"a": 1}, space)
    seen: list[int] = []
    search.Share(one, search.Task("m", ((1,) * 2048,), "f16", 0, 1, space)).run(seen.append)
    assert len(fake) == 1 and seen == [1, 2, 3, 4, 5]


def test_a_storage_that_fails_is_one_line(tmp_path, fake, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise optuna.exceptions.StorageInternalError("database or disk is full\nand a page about it")

    one = search.Search(f"sqlite:///{tmp_path / 'tune.db'}", "s", "random", 1, 3)
    search.create(one, {"a": 1}, SPACE)
    monkeypatch.setattr(optuna.storages.RDBStorage, "set_trial_user_attr", full)
    with pytest.raises(EvalError, match=r"^storage sqlite:.*: database or disk is full; ended trials are kept$"):
        search.Share(one, search.Task("m", ((1,) * 2048,), "f16", 0, 1, SPACE)).run()


def test_sqlite_is_locked_before_it_is_read(tmp_path):
    # Or two processes could both read that a queued trial waits, and both run it.
    storage = search.open_storage(f"sqlite:///{tmp_path / 'tune.db'}")
    another = contextlib.closing(sqlite3.connect(tmp_path / "tune.db", timeout=0))
    with storage.engine.begin(), another as other, pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")


@pytest.mark.parametrize("storage", ["sqlite", "journal"])
def test_two_processes_share_a_search(storage, tmp_path):
    url = f"sqlite:///{tmp_path / 'tune.db'}" if storage == "sqlite" else f"journal:{tmp_path / 'tune.log'}"
    command = [sys.executable, "-m", "python_eval.tune", *OPTIONS, "--held-out", 0, "--out", tmp_path / "out"]
    command += ["--trials", 8, "--method", "random", "--storage", url]
    paths = os.pathsep.join([str(ROOT), *sys.path])
    both = [
        subprocess.Popen(
            [str(part) for part in command], env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[1].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    rows = trials(tmp_path / "out")
    # Both may have begun their last trial when the budget was nearly spent.
    assert 8 <= len(rows) <= 9
    assert sorted(filter(None, (row["preset"] for row in rows))) == ["default", "quality", "reference", "small", "tiny"]
    specs = [row["spec"] for row in rows if row["spec"]]
    assert len(set(specs)) == len(specs)


def test_methods_are_compared_with_equal_budgets(tmp_path, fake, capsys):
    shared = ["--method", "compare", "--trials", 7, "--held-out", 0]
    assert run(tmp_path, *shared, "--seeds", 2) == 0
    rows = json.loads((tmp_path / "comparison.json").read_text())["rows"]
    assert [(row["method"], row["seeds"], row["trials"]) for row in rows] == [
        ("random", 2, 7), ("bayesian", 2, 7), ("evolutionary", 2, 7),
    ]  # fmt: skip
    curves = json.loads((tmp_path / "hypervolume.json").read_text())["curves"]
    assert len(curves) == 6 and all(len(one["hypervolume"]) == 7 for one in curves)
    assert all(one["hypervolume"] == sorted(one["hypervolume"]) for one in curves)
    # Seeds are seeds: the same search in another storage tries the same caches.
    before = [row["spec"] for row in trials(tmp_path) if row["study"].endswith("-1")]
    assert run(tmp_path / "again", *shared, "--seeds", 1) == 0
    assert [row["spec"] for row in trials(tmp_path / "again")] == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "nosuch"], "unknown method 'nosuch'; known: random, bayesian, evolutionary, compare"),
        (["--storage", "nosuch://x"], "storage nosuch://x: "),
        (["--storage", "journal:/nosuch/folder/log"], "storage journal:/nosuch/folder/log: "),
        (["--fix", "nosuch=1"], "there is no option 'nosuch'"),
        (["--windows", "0"], "--windows is at least 1 here"),
        (["--data", "none.txt"], "none.txt: no such file"),
        (["--base", "nosuch"], "'nosuch' is neither a policy nor a preset"),
    ],
)
def test_bad_input_is_one_line(options, message, tmp_path, fake, capsys):
    assert run(tmp_path, *options) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("tune: ") and message in said[0]


def test_a_study_of_something_else_is_refused(tmp_path, fake, capsys):
    url = f"journal:{tmp_path / 'log'}"
    assert run(tmp_path / "a", "--trials", 1, "--storage", url, "--held-out", 0) == 0
    capsys.readouterr()
    assert run(tmp_path / "b", "--trials", 1, "--storage", url, "--held-out", 0, "--base", "q8_0") == 1
    assert "was begun with another base: f16, now q8_0; name another storage" in capsys.readouterr().err
