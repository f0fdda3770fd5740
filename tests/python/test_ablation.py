"""Ablations: the studies are ones the engine can run, differences are from the baseline, nothing is measured twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

livekv = pytest.importorskip("livekv", reason="the livekv package is not built")
pytest.importorskip("tqdm", reason="requirements/eval.txt is not installed")

from python_eval import windows  # noqa: E402
from python_eval.ablation.__main__ import main  # noqa: E402
from python_eval.ablation.plan import make_plan  # noqa: E402
from python_eval.ablation.studies import STUDIES, select, vary  # noqa: E402
from python_eval.errors import EvalError  # noqa: E402
from python_eval.longbench.score import score_folder  # noqa: E402
from python_eval.specs import changed  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
STORY = ROOT / "tests" / "models" / "story.gguf"
TEXT = ROOT / "tests" / "data" / "war-and-peace-opening.txt"
START = "livekv:chunk-size=64:warmup-chunks=1"


def run(out: Path, *options: object) -> int:
    fixed = ["--model", STORY, "--data", TEXT, "--n-ctx", 256, "--windows", 3, "--threads", 1, "--out", out]
    return main([str(one) for one in (*fixed, *options)])


def rows(out: Path, study: str) -> list[dict]:
    return json.loads((out / f"ablation-{study}.json").read_text())["rows"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    out = tmp_path_factory.mktemp("ablation")
    assert run(out, "--vary", "kv-bits=2;4,2", "--study", "sinks", "--baseline", START) == 0
    return out


# --- studies ---


@pytest.mark.parametrize("name", STUDIES)
def test_the_engine_takes_every_setting_and_each_changes_the_cache(name):
    plan = make_plan(STUDIES[name])
    assert len(set(plan.specs)) == len(plan.specs) == len(STUDIES[name].settings) + 1


def test_the_published_sweeps_are_there_with_their_scores():
    published = {
        setting.changes: setting.published
        for study in STUDIES.values()
        for setting in study.settings
        if setting.published
    }
    # narrativeqa, April run: a few of each row of the published table.
    assert published["warmup-chunks=0"] == 28.23 and published["outlier-ratio=0.05"] == 27.85
    assert published["clip-factor=1"] == 26.30 and published["ema-alpha=0.3"] == 28.45
    assert published["chunk-size=4096"] == 28.74 and published["scale-method=ema_minmax"] == 28.90
    assert len(published) == 18


def test_changes_replace_what_the_spec_says():
    assert changed("livekv:a=1:b=2", {"b": "3", "c": "4,5"}) == "livekv:a=1:b=3:c=4,5"
    assert changed("q8_0", {}) == "q8_0"


def test_own_sweeps_part_values_by_comma_or_semicolon():
    assert [one.changes for one in vary("ema-alpha=.1,.2", "livekv").settings] == ["ema-alpha=.1", "ema-alpha=.2"]
    assert [one.changes for one in vary("kv-bits=4,3; 2", "livekv").settings] == ["kv-bits=4,3", "kv-bits=2"]
    for text in ("ema-alpha", "ema-alpha=", "=1", "a=1:b=2", "a=1,,2"):
        with pytest.raises(EvalError):
            vary(text, "livekv")


def test_all_is_every_study_and_unknown_ones_are_named():
    assert {study.name for study in select("all")} == {
        "component", "chunk", "warmup", "alpha", "clip", "outliers", "bits", "widths", "sinks", "bypass",
        "scale", "kvstream-component", "kvstream-chunk", "kvstream-decay", "kvstream-bits", "kvstream-sinks",
        "kvstream-range", "kvstream-rope", "kvstream-values", "guided-component", "guided-importance_weights",
        "guided-precision_thresholds", "guided-propagation_ratios", "guided-quantization_bits", "guided-comprehensive",
    }  # fmt: skip
    with pytest.raises(EvalError, match=r"unknown study 'x'; known: component, .*, all"):
        select("x")


# --- runs ---


def test_every_setting_is_paired_with_the_baseline(measured):
    caches = windows.load(
        measured, [json.loads(line) for line in (measured / "windows.jsonl").read_text().splitlines()]
    )
    first, *settings = rows(measured, "vary-kv-bits")
    assert first["setting"] == "baseline" and first["kl_diff"] is None
    assert [row["setting"] for row in settings] == ["kv-bits 2", "kv-bits 4,2"]
    for row in settings:
        by_window = (caches[row["spec"]].kl - caches[first["spec"]].kl).mean(axis=1)
        wanted = {"mean": by_window.mean(), "se": by_window.std(ddof=1) / 3**0.5, "n": 3}
        assert row["kl_diff"] == pytest.approx(wanted, rel=1e-9) and row["kl_diff"]["mean"] > 0
        assert row["bits_per_value"] < first["bits_per_value"] and row["kl_mean"] > first["kl_mean"]


def test_what_studies_share_is_measured_once_and_nothing_again(measured, monkeypatch, capsys):
    specs = [json.loads(line)["spec"] for line in (measured / "windows.jsonl").read_text().splitlines()]
    # The baseline of both studies, two widths of codes, four numbers of sinks; three windows each.
    assert len(specs) == 3 * (1 + 2 + 4) and max(map(specs.count, specs)) == 3
    monkeypatch.setattr(livekv, "fidelity", None)
    assert run(measured, "--vary", "kv-bits=2;4,2", "--baseline", START, "--json", "-") == 0
    content = json.loads(capsys.readouterr().out)
    assert list(content["studies"]) == ["vary kv-bits"]
    assert content["studies"]["vary kv-bits"]["rows"] == rows(measured, "vary-kv-bits")


def test_longbench_tasks_are_scored_by_setting(tmp_path, shared, capsys):
    options = ["--vary", "kv-bits=2", "--baseline", START, "--windows", 1, "--task-ctx", 512]
    options += ["--longbench", "trec,lcc", "--limit", 2, "--data-dir", shared / "longbench" / "mini"]
    assert run(tmp_path, *options) == 0
    first, second = rows(tmp_path, "vary-kv-bits")
    assert "the scores of these tasks mean nothing" in capsys.readouterr().out
    for task in ("trec", "lcc"):
        assert second[f"{task}_diff"]["mean"] == pytest.approx(second[task] - first[task])
        assert second[f"{task}_diff"]["n"] == 2
    folders = sorted((tmp_path / "longbench" / "predictions").iterdir())
    for row in (first, second):  # what the scorer says of the recorded answers, in two digits
        assert {"trec": round(row["trec"], 2), "lcc": round(row["lcc"], 2)} in [score_folder(one, e=False) for one in folders]
    assert first["lcc"] > 0
    answered = sorted(path.name for path in (tmp_path / "longbench" / "predictions").glob("*/*.jsonl"))
    assert answered == ["lcc.jsonl", "lcc.jsonl", "trec.jsonl", "trec.jsonl"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "name a study (--study) or options to vary (--vary)"),
        (["--study", "nosuch"], "unknown study 'nosuch'; known: component, chunk,"),
        (["--vary", "kv-bits=9"], "study vary kv-bits, kv-bits 9: cache 'livekv:kv-bits=9': kv-bits: '9'"),
        (["--vary", "nosuch=1"], "there is no option 'nosuch'"),
        (["--study", "bits", "--baseline", "nosuch"], "'nosuch' is neither a policy nor a preset"),
        (["--study", "bits", "--data", "none.txt"], "none.txt: no such file"),
        (["--study", "bits", "--longbench", "nosuch"], "unknown LongBench task 'nosuch'"),
        (["--study", "bits", "--longbench", "trec", "--data-dir", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line(options, message, tmp_path, capsys):
    assert run(tmp_path / "out", *options) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("ablation: ") and message in said[0]
    assert not (tmp_path / "out").exists()
