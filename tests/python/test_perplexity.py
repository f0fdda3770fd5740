"""Perplexity from Python: the CLI's numbers, pairs, resuming, bad input."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

livekv = pytest.importorskip("livekv", reason="the livekv package is not built")
pytest.importorskip("tqdm", reason="requirements/eval.txt is not installed")

import split_gguf  # noqa: E402

from python_eval import calibrate, windows  # noqa: E402
from python_eval.identity import run_config, sha256_of  # noqa: E402
from python_eval.model_file import fingerprint  # noqa: E402
from python_eval.perplexity import main  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
STORY = ROOT / "tests" / "models" / "story.gguf"
TEXT = ROOT / "tests" / "data" / "war-and-peace-opening.txt"
SMALL = "livekv:chunk-size=64:kv-bits=3,2"
# The sums are the same numbers added in another order.
ROUNDING = 1e-12


def run(out: Path, *options: object, text: Path = TEXT, kv: str = f"f16,{SMALL}") -> int:
    fixed = ["--model", STORY, "--data", text, "--kv", kv, "--n-ctx", 512, "--windows", 2, "--threads", 1, "--out", out]
    return main([str(one) for one in (*fixed, *options)])


def records(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "windows.jsonl").read_text().splitlines()]


@pytest.fixture
def calls(monkeypatch):
    """The specs that were measured, a window each, and after how many of them Ctrl-C comes."""
    seen: list[str] = []
    seen_limit = {"limit": 10**9}
    measure = livekv.fidelity

    def counted(*arguments, **options):
        if len(seen) >= seen_limit["limit"]:
            raise KeyboardInterrupt
        seen.append(options["kv"].spec)
        return measure(*arguments, **options)

    monkeypatch.setattr(livekv, "fidelity", counted)
    return seen, seen_limit


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    out = tmp_path_factory.mktemp("perplexity")
    assert run(out, kv=f"f16,q4_0,{SMALL}") == 0
    return out


def test_the_numbers_are_those_of_the_command_line(measured, tools, tmp_path):
    rows = {row["cache"]: row for row in json.loads((measured / "perplexity.json").read_text())["rows"]}
    for label, flags in (("q4_0", ["--kv", "q4_0"]), (SMALL, ["--chunk-size", 64, "--kv-bits", "3,2"])):
        done = tools.run(
            "livekv-perplexity", "-m", STORY, "-f", TEXT, "-c", 512, "--windows", 2, "--kl-base", "f16", "-t", 1,
            "-o", "json", "--kl-tokens", tmp_path / "kl", *flags,
        )  # fmt: skip
        cli = json.loads(done.stdout)
        names = ["n_tokens", "ppl", "ppl_stderr", "bits_per_value", "kl_mean", "kl_mean_stderr", "kl_median", "kl_p999"]
        for name in (*names, "kl_max", "same_top"):
            assert rows[label][name] == pytest.approx(cli[name], rel=ROUNDING), name
        kl = windows.load(measured, records(measured))[rows[label]["spec"]].kl
        assert np.array_equal(kl.ravel(), np.fromfile(tmp_path / "kl"))


def test_the_base_is_compared_with_nothing(measured, capsys):
    divergence = {"kl_mean", "kl_mean_stderr", "kl_se", "kl_median", "kl_p999", "kl_max", "same_top"}
    for row in json.loads((measured / "perplexity.json").read_text())["rows"]:
        assert divergence <= row.keys()
        assert {name for name, cell in row.items() if cell is None} == (divergence if row["cache"] == "f16" else set())
    assert {(one["kl_mean"] is None, one["same_top"] is None) for one in records(measured) if one["spec"] == "f16"} == {
        (True, True)
    }
    assert run(measured, kv=f"f16,q4_0,{SMALL}") == 0
    table = [[cell.strip() for cell in line.split("|")] for line in capsys.readouterr().out.splitlines()]
    assert [cells[5:9] for cells in table if len(cells) > 5 and cells[2] == "f16"] == [["-"] * 4]


def test_differences_are_paired_and_their_errors_over_windows(measured):
    caches = windows.load(measured, records(measured))
    labels = json.loads((measured / "caches.json").read_text())
    pairs = json.loads((measured / "differences.json").read_text())["rows"]
    assert [(row["against"], row["cache"]) for row in pairs] == [("f16", "q4_0"), ("f16", SMALL), ("q4_0", SMALL)]
    first, second = caches[labels["q4_0"]], caches[labels[SMALL]]
    for field, one in (("kl_diff", second.kl - first.kl), ("nll_diff", second.nll - first.nll)):
        a, b = one.mean(axis=1)
        # Two windows: the standard error of their mean is half of their difference.
        assert pairs[2][field] == pytest.approx({"mean": (a + b) / 2, "se": abs(a - b) / 2, "n": 2}, rel=1e-9)
    assert caches[labels["f16"]].kl.max() == 0.0 and first.kl.shape == (2, 255)


def test_a_killed_run_goes_on_and_a_later_one_adds_caches(tmp_path, calls, measured):
    seen, after = calls
    after["limit"] = 3
    assert run(tmp_path) == 130
    assert len(records(tmp_path)) == 3 and not (tmp_path / "perplexity.json").exists()
    after["limit"] = 10**9
    assert run(tmp_path) == 0 and len(seen) == 4
    assert run(tmp_path, kv=f"{SMALL},q4_0") == 0
    assert seen[4:] == ["q4_0", "q4_0"]
    assert run(tmp_path, kv=f"f16,q4_0,{SMALL}") == 0 and len(seen) == 6
    # What was measured bit by bit is what was measured at once.
    tables = [json.loads((out / "perplexity.json").read_text())["rows"] for out in (tmp_path, measured)]
    assert tables[0] == tables[1]


def test_one_cache_under_two_names_is_measured_once(tmp_path, calls):
    assert run(tmp_path, kv=f"{SMALL},livekv:chunk-size=64:sink-tokens=4:kv-bits=3,2") == 0
    assert len(calls[0]) == 4  # with the base, two windows each
    rows = json.loads((tmp_path / "perplexity.json").read_text())["rows"]
    assert len(rows) == 3 and rows[1]["kl_mean"] == rows[2]["kl_mean"] > 0


def test_workers_measure_the_same(tmp_path, measured, monkeypatch):
    monkeypatch.setattr(livekv, "fidelity", None)  # of this process; the workers import their own
    assert run(tmp_path, "--workers", 2) == 0
    everything, found = (windows.load(out, records(out)) for out in (measured, tmp_path))
    assert found.keys() == everything.keys() - {"q4_0"} and len(found) == 2
    for spec, one in found.items():
        assert one.keys == everything[spec].keys and len(one.keys) == 2
        assert np.array_equal(one.kl, everything[spec].kl) and np.array_equal(one.nll, everything[spec].nll)


def test_json_goes_to_stdout_alone(measured, capsys):
    assert run(measured, "--json", "-", kv=f"f16,q4_0,{SMALL}") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["config"] == json.loads((measured / "config.json").read_text())
    assert content["caches"] == json.loads((measured / "perplexity.json").read_text())["rows"]
    assert content["differences"] == json.loads((measured / "differences.json").read_text())["rows"]


def test_the_table_shows_differences_from_the_cache_that_is_named(measured, capsys):
    assert run(measured, "--against", "q4_0", kv=f"f16,q4_0,{SMALL}") == 0
    table = [[cell.strip() for cell in line.split("|")] for line in capsys.readouterr().out.splitlines()]
    shown = {cells[2]: cells[-3:-1] for cells in table if len(cells) > 5 and cells[1] == TEXT.stem}
    pairs = {(row["against"], row["cache"]): row for row in json.loads((measured / "differences.json").read_text())["rows"]}
    assert shown.keys() == {"f16", "q4_0", SMALL} and shown["q4_0"] == ["-", "-"]
    for label, sign, pair in (("f16", -1, pairs["f16", "q4_0"]), (SMALL, 1, pairs["q4_0", SMALL])):
        for cell, field in zip(shown[label], ("kl_diff", "nll_diff"), strict=True):
            mean, se = map(float, cell.split(" ± "))
            assert mean == pytest.approx(sign * pair[field]["mean"], rel=1e-3)  # four digits are printed, two of an error
            assert se == pytest.approx(pair[field]["se"], rel=0.05)


def test_every_text_has_its_rows(tmp_path):
    words = TEXT.read_text()
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(words[:2900] if name == "one" else words[2900:])
    out = tmp_path / "out"
    options = [
        "--model",
        STORY,
        "--data",
        tmp_path / "one.txt",
        tmp_path / "two.txt",
        "--kv",
        "f16,q4_0",
        "--n-ctx",
        256,
    ]
    assert main([str(one) for one in (*options, "--windows", 1, "--threads", 1, "--out", out)]) == 0
    rows = json.loads((out / "perplexity.json").read_text())["rows"]
    assert [(row["text"], row["cache"]) for row in rows] == [(t, c) for t in ("one", "two") for c in ("f16", "q4_0")]
    assert rows[0]["ppl"] != rows[2]["ppl"] and rows[1]["kl_se"] is None  # one window has no error


def test_a_window_too_short_to_read_a_sealed_key_is_said(measured, capsys):
    run(measured, kv="f16,livekv:chunk-size=512,livekv:chunk-size=128:warmup-chunks=4," + SMALL)
    notes = (measured / "perplexity.md").read_text()
    assert "no sealed key is ever read of: livekv:chunk-size=512, livekv:chunk-size=128:warmup-chunks=4." in notes


def test_divergence_by_position_is_that_of_the_tokens_there(measured):
    assert run(measured, kv=f"f16,q4_0,{SMALL}") == 0
    rows = [row for row in json.loads((measured / "positions.json").read_text())["rows"] if row["cache"] == "q4_0"]
    kl = windows.load(measured, records(measured))["q4_0"].kl
    assert rows[0]["tokens read"].split(" to ")[0] == "257" and rows[-1]["tokens read"].split(" to ")[1] == "511"
    assert rows[0]["KLD"] == pytest.approx(kl[:, :31].mean()) and rows[-1]["KLD"] == pytest.approx(kl[:, 223:].mean())
    a, b = kl[:, 223:].mean(axis=1)
    assert rows[-1]["± SE"] == pytest.approx(abs(a - b) / 2)
    assert len(rows) == 8


def test_a_layer_alone_costs_less_than_all_of_them(tmp_path):
    assert run(tmp_path, "--by-layer", "--windows", 1) == 0
    rows = json.loads((tmp_path / "layers.json").read_text())["rows"]
    model = livekv.Model(STORY)
    assert [(row["cache"], row["layer"]) for row in rows] == [(SMALL, layer) for layer in range(model.n_layer)]
    together = json.loads((tmp_path / "perplexity.json").read_text())["rows"][1]["kl_mean"]
    assert all(0 < row["KLD"] < together for row in rows) and len({row["KLD"] for row in rows}) == len(rows)


def test_dequantized_weights_are_another_measurement(tmp_path, measured):
    assert run(tmp_path, "--dequantize") == 0
    one, other = (windows.load(out, records(out)) for out in (tmp_path, measured))
    spec = json.loads((tmp_path / "caches.json").read_text())[SMALL]
    assert not np.array_equal(one[spec].nll, other[spec].nll) and np.allclose(one[spec].nll, other[spec].nll, atol=0.5)
    assert run(tmp_path) == 1  # weights as they are stored are none of this folder's


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "none.gguf"], "none.gguf: no such file"),
        (["--data", "none.txt"], "none.txt: no such file"),
        (["--data", "bad.txt"], "bad.txt: not UTF-8 at byte 3"),
        (["--data", "short.txt"], "short.txt: 4 tokens are too few for 2 windows of 512"),
        (["--windows", "9"], "tokens are too few for 9 windows of 512"),
        (["--data", "short.txt", "short.txt", "--windows", "1", "--n-ctx", "2"], "two texts are called short"),
        (["--data", "wikitext", "--data-dir", "."], "wikitext is not in ."),
        (["--kv", "f16,nosuch"], "'nosuch' is neither a policy nor a preset"),
        (["--kv", "livekv:kv-bits=9"], "kv-bits: '9' is not one or two of 2, 3, 4, 5 and 8"),
        (["--base", "nosuch"], "'nosuch' is neither a policy nor a preset"),
        (["--against", "q4_0"], "--against q4_0 is none of the caches: f16, "),
        (["--windows", "-1"], "--windows -1 is less than 0"),
        (["--by-layer", "--kv", "f16,q4_0"], "--by-layer: none of the caches compresses layers one by one"),
        (["--n-ctx", "256"], "was run with "),
    ],
)
def test_bad_input_is_one_line(options, message, measured, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("bad.txt").write_bytes(b"abc\xff")
    Path("short.txt").write_text("three words")
    out = measured if "was run" in message else tmp_path / "out"
    assert run(out, *options) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("perplexity: ") and message in said[0]
    assert out is measured or not out.exists()


def test_each_text_has_a_folder_of_its_own_and_goes_on_there(tmp_path, monkeypatch, calls):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text(TEXT.read_text()[:3000])
    (tmp_path / "b.txt").write_text(TEXT.read_text()[1000:4000])
    fixed = ["--model", str(STORY), "--n-ctx", "128", "--windows", "1", "--threads", "1"]
    for text, kv, n_measured in (("a", "f16", 1), ("b", "f16", 2), ("a", "f16,q8_0", 3)):
        assert main([*fixed, "--data", f"{text}.txt", "--kv", kv]) == 0
        assert len(calls[0]) == n_measured
    assert len(list((tmp_path / "results").glob("perplexity-story-*"))) == 2


def test_a_folder_is_of_one_calibration_by_its_content(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # specs hold no path but a name
    kv = "f16,kvquant:calibration=c.kvquant4:chunk-size=64"
    calibrated = ["--model", str(STORY), "--bits", "4", "--samples", "2", "--out", "c.kvquant4", "--threads", "1"]
    assert calibrate.main([*calibrated, "--text", str(TEXT), "--length", "256"]) == 0
    assert run(tmp_path / "out", kv=kv) == 0
    assert run(tmp_path / "out", kv=kv) == 0
    assert calibrate.main([*calibrated, "--text", str(TEXT), "--length", "200"]) == 0
    capsys.readouterr()
    assert run(tmp_path / "out", kv=kv) == 1
    said = capsys.readouterr()
    assert "the calibration of kvquant:calibration=c.kvquant4:chunk-size=64 was another then" in said.err
    assert said.err.count("\n") == 1 and said.out == ""
    config = run_config("command", "c", STORY, 0, caches={"a": "f16", "b": "kvquant:calibration=c.kvquant4"})
    assert config["calibrations"] == {"kvquant:calibration=c.kvquant4": sha256_of(Path("c.kvquant4"))}
    assert "calibrations" not in run_config("command", "c", STORY, 0, caches={"a": "f16"}, base="q8_0")


def test_a_model_is_known_by_all_bytes_of_all_its_parts(tmp_path):
    whole = fingerprint(STORY)
    assert whole["sha256"] == sha256_of(STORY) and whole["bytes"] == STORY.stat().st_size
    parts = split_gguf.split(STORY, tmp_path / "story", 3)
    (tmp_path / "story-00001-of-00004.gguf").write_bytes(b"of another model")
    first = fingerprint(parts[0])
    assert first == fingerprint(parts[2]) and first["bytes"] == sum(part.stat().st_size for part in parts)
    changed = bytearray(parts[1].read_bytes())
    changed[len(changed) // 2] ^= 1
    parts[1].write_bytes(changed)
    assert fingerprint(parts[0]) == fingerprint(parts[2]) != first


def test_names_that_are_no_text_are_shown_as_what_they_are(tmp_path):
    names = [tmp_path / os.fsdecode(name) for name in (b"t\xff.txt", b"m\xff.gguf")]
    for name, source in zip(names, (TEXT, STORY), strict=True):
        name.write_bytes(source.read_bytes())
    assert run(tmp_path / "out", "--model", names[1], text=names[0]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model"]["file"] == "m\\udcff.gguf" and "t\\udcff" in json.dumps(config["texts"]).replace("\\\\", "\\")
