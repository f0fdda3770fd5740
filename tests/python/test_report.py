"""Reports: each kind of results becomes a section with its pictures and tables, damaged results are named."""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="requirements/eval.txt is not installed")
pytest.importorskip("jinja2", reason="requirements/eval.txt is not installed")
pytest.importorskip("optuna", reason="requirements/eval.txt is not installed")

from matplotlib import image

from python_eval.paired import Paired
from python_eval.report import cache_plots
from python_eval.report.__main__ import main
from python_eval.run_folder import RunFolder
from python_eval.tables import write_tables
from python_eval.windows import write_arrays

MODEL = {"file": "m.gguf", "bytes": 1, "sha256": ""}
MOST_BYTES = 150_000  # of a picture
MEASURED = {"model": MODEL, "texts": {"t": {"windows": 2, "tokens_sha256": ""}}, "n_ctx": 64, "base": "f16"}


def pair(mean: float) -> Paired:
    return Paired(mean, abs(mean) / 5, 2)


def make_perplexity(folder: RunFolder) -> None:
    rng = np.random.default_rng(1)
    caches = {"f16": "f16", "a cache": "livekv", "another <b>": "q8_0"}
    for n, spec in enumerate(caches.values()):
        for window in range(2):
            name = f"arrays/{spec}{window}.npz"
            nll, kl = rng.random(31), n * rng.random(31) / 100
            write_arrays(folder.path / name, {"nll": nll, "kl": kl})
            record = {"spec": spec, "text": "t", "window": window, "chunk_size": 16, "n_scored": 31}
            record |= {"nll_mean": nll.mean(), "kl_mean": kl.mean(), "same_top": 0.9, "bits_per_value": 4.0 + n, "arrays": name}
            folder.append("windows", record)
    folder.write_json("caches.json", caches)
    rows = [{"cache": label, "ppl": 12.345678, "spec": spec} for label, spec in caches.items()]
    write_tables(rows, folder.path, "perplexity", ("NOTE: a note",))
    write_tables([{"cache": "a cache", "against": "f16", "kl_diff": pair(0.25)}], folder.path, "differences")


def make_ablation(folder: RunFolder) -> None:
    rows = [
        {"setting": name, "bits_per_value": 4.0 + n, "kl_mean": 0.01 + n / 100, "kl_se": 0.001,
         "kl_diff": None if n == 0 else pair(n / 100), "spec": "livekv"}
        for n, name in enumerate(("baseline", "one", "two"))
    ]  # fmt: skip
    write_tables(rows, folder.path, "ablation-chunk", ("Study: chunk. How many?", "Baseline: livekv"))


def make_tune(folder: RunFolder) -> None:
    rows = [
        {"study": "random-1", "trial": n, "preset": preset, "bits_per_value": 4.0 + n, "kl_mean": 0.01 / (1 + n),
         "refused": None, "spec": "livekv"}
        for n, preset in enumerate(("default", None, None))
    ]  # fmt: skip
    write_tables([*rows, {**rows[2], "bits_per_value": None, "kl_mean": None, "refused": "why"}], folder.path, "trials")
    for name in ("front", "best", "comparison"):
        write_tables([{"cache": name, "gain": pair(-1.5)}], folder.path, name, ("held out",))
    curves = [{"method": m, "seed": s, "hypervolume": [30.0, 31.0 + s]} for m in ("random", "bayesian") for s in (1, 2)]
    folder.write_json("hypervolume.json", {"corner": [16.0, 1.0], "curves": curves})


def make_cache_profile(folder: RunFolder) -> None:
    parts = {part: [0, n * 2**20] for n, part in enumerate(cache_plots.PARTS)}
    record = {"label": "livekv", "spec": "livekv", "n_tokens": [10, 20], "bytes": {**parts, "total": [0, 36 * 2**20]}}
    folder.append("growth", {**record, "snr_k": [20.0, None, 22.0], "snr_v": [21.0, 22.0, 23.0]})
    folder.append("growth", {**record, "label": "q8_0", "snr_k": None, "snr_v": None})
    arrays = {}
    for side in "kv":
        arrays |= {
            f"{side}_quantiles": np.sort(np.random.default_rng(2).normal(size=(8, 5)), axis=1),
            f"{side}_edges": np.linspace(-1, 1, 5), f"{side}_dense": np.array([1, 9, 9, 1]),
            f"{side}_apart": np.array([1, 0, 0, 0]), f"{side}_dots": np.array([[3.0, -1.0]]),
            f"{side}_n_apart": np.array(1),
        }  # fmt: skip
    write_arrays(folder.path / "arrays" / "layer000.npz", arrays)
    layer = {"label": "livekv", "layer": 0, "rotation": {"k": 0, "v": 64}, "arrays": "arrays/layer000.npz"}
    folder.append("distributions", layer)


def make_longbench(folder: RunFolder) -> None:
    rows = [
        {"task": t, "metric": "f1", "f16": 40.0, "livekv": 39.0, "livekv - f16": pair(-1.0)} for t in ("qasper", "lcc")
    ]
    average = {"task": "average of the tasks", "metric": "", "f16": 40.0, "livekv": 39.0, "livekv - f16": pair(-1.0)}
    write_tables([*rows, average], folder.path, "scores", ("WARNING: small",))
    costs = [{"cache": c, "options": c, "bits a value": b} for c, b in (("f16", 16.0), ("livekv", 4.5))]
    write_tables(costs, folder.path, "caches", ("memory",))


KINDS = {
    "perplexity": (make_perplexity, {"command": "perplexity", **MEASURED}, 2),
    "ablation": (make_ablation, {"command": "ablation", **MEASURED}, 2),
    "tune": (make_tune, {"command": "tune", **MEASURED}, 2),
    "cache_profile": (make_cache_profile, {"command": "cache_profile", "f16_bytes_per_token": 1e6, **MEASURED}, 3),
    "longbench": (make_longbench, {"benchmark": "longbench", "model": MODEL}, 2),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    for name, (make, config, _) in KINDS.items():
        with RunFolder(root / name, config) as folder:
            make(folder)
    return root


def report(out: Path, *folders: object) -> int:
    return main([*map(str, folders), "--out", str(out)])


def pictures_in(page: str) -> list[bytes]:
    return [base64.b64decode(one) for one in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]


# --- the page ---


@pytest.fixture(scope="module")
def made(results, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "r.html"
    assert report(out, *(results / name for name in KINDS)) == 0
    return out


def test_every_kind_of_results_has_its_section_and_pictures(made):
    page = made.read_text()
    assert [page.count(f'id="s{n}"') for n in range(1, 7)] == [1] * len(KINDS) + [0]
    found = pictures_in(page)
    files = sorted(made.with_suffix("").glob("*.png"))
    assert len(found) == len(files) == sum(n for _, _, n in KINDS.values())
    assert {path.read_bytes() for path in files} == set(found)
    # One file holds everything.
    assert not re.search(r'(src|href)="(?!data:|#)', page) and "http" not in page


def test_pictures_are_small_and_not_empty(made):
    for path in made.with_suffix("").glob("*.png"):
        pixels = image.imread(path)[..., :3]
        assert path.stat().st_size < MOST_BYTES
        # Some ink, on white.
        assert 0.005 < (pixels.min(axis=2) < 0.9).mean() < 0.6 and pixels[0, 0].min() == 1.0


def test_tables_and_notes_are_on_the_page_as_text(made):
    page = made.read_text()
    assert "<td>12.35</td>" in page and "<td>+0.25 ± 0.05</td>" in page and "<td>-1.5 ± 0.3</td>" in page
    assert '<p class="note warning">WARNING: small</p>' in page and '<p class="note warning">NOTE: a note</p>' in page
    assert "another &lt;b&gt;" in page and "another <b>" not in page


def test_the_same_results_give_the_same_page(made, results, tmp_path):
    assert report(tmp_path / "r.html", *(results / name for name in KINDS)) == 0
    assert (tmp_path / "r.html").read_bytes() == made.read_bytes()


# --- bad results ---


def damage(folder: Path, what: str) -> None:
    if what == "no config":
        (folder / "config.json").unlink()
    elif what == "another kind":
        (folder / "config.json").write_text('{"command": "cooking"}')
    elif what == "no table":
        (folder / "perplexity.json").unlink()
    elif what == "no json":
        (folder / "perplexity.json").write_text("{")
    elif what == "a broken line":
        with (folder / "windows.jsonl").open("a") as file:
            file.write("[]\n")
    elif what == "no field":
        (folder / "windows.jsonl").write_text('{"spec": "f16"}\n')
    elif what == "no arrays":
        next(folder.glob("arrays/*.npz")).write_bytes(b"PK\x03\x04 torn")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no config", "no config.json, so not the folder of a run"),
        ("another kind", "results of 'cooking', which reports do not know; known: perplexity,"),
        ("no table", "perplexity.json: cannot read: No such file or directory"),
        ("no json", "perplexity.json: not JSON: "),
        ("a broken line", "windows.jsonl:7: not a JSON object"),
        ("no field", "windows.jsonl:1: 'text' is missing"),
        ("no arrays", "npz: cannot read its arrays: "),
    ],
)
def test_damaged_results_are_one_line_and_no_page(what, message, results, tmp_path, capsys):
    shutil.copytree(results / "perplexity", tmp_path / "run")
    damage(tmp_path / "run", what)
    assert report(tmp_path / "r.html", results / "longbench", tmp_path / "run") == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("report: ") and str(tmp_path / "run") in said[0] and message in said[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_missing_folder_and_an_unwritable_page_are_one_line(results, tmp_path, capsys):
    assert report(tmp_path / "r.html", tmp_path / "none") == 1
    (tmp_path / "file").write_text("")
    assert report(tmp_path / "file" / "r.html", results / "longbench") == 1
    first, second = capsys.readouterr().err.splitlines()
    assert "none: no such folder" in first and "cannot write there" in second


def test_a_killed_run_shows_what_it_has(results, tmp_path):
    shutil.copytree(results / "cache_profile", tmp_path / "run")
    with (tmp_path / "run" / "growth.jsonl").open("a") as file:
        file.write('{"label": "torn')
    assert report(tmp_path / "r.html", tmp_path / "run") == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["command"] == "cache_profile"
