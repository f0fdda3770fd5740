"""Cache profiles: bytes that add up, the same cache as a whole prefill's, distributions in the stored basis."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

livekv = pytest.importorskip("livekv", reason="the livekv package is not built")
pytest.importorskip("tqdm", reason="requirements/eval.txt is not installed")

from python_eval.cache_profile import main  # noqa: E402
from python_eval.distributions import N_BINS, layer_distributions, walsh_hadamard  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
STORY = ROOT / "tests" / "models" / "story.gguf"
TEXT = ROOT / "tests" / "data" / "war-and-peace-opening.txt"
SMALL = "livekv:chunk-size=128:rotate=kv:outlier-ratio=0.02:v-outlier-ratio=0.02:warmup-chunks=1"
PUBLISHED = "reference:chunk-size=128:bypass-layers=1"


def run(out: Path, *options: object) -> int:
    fixed = ["--model", STORY, "--data", TEXT, "--n-ctx", 512, "--threads", 1, "--out", out]
    return main([str(one) for one in (*fixed, *options)])


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    out = tmp_path_factory.mktemp("profile")
    assert run(out, "--kv", f"{SMALL},{PUBLISHED},q8_0", "--step", 48, "--layers", "0,3") == 0
    return out


@pytest.fixture(scope="module")
def model():
    return livekv.Model(STORY, n_threads=1)


def session(model, spec: str, **changes):
    one = model.session(n_ctx=512, kv=livekv.KVOptions.parse(spec).replace(**changes))
    one.prefill(model.tokenize(TEXT.read_text())[:512])
    return one


def test_growth_ends_with_the_cache_of_a_whole_prefill(profile, model):
    grown = {record["label"]: record for record in records(profile / "growth.jsonl")}
    assert list(grown) == [SMALL, PUBLISHED, "q8_0"]
    for spec, record in grown.items():
        policy = livekv.KVOptions.parse(spec).policy
        stats = session(model, spec, measure_error=policy == "livekv").kv_stats()
        assert {part: n[-1] for part, n in record["bytes"].items()} == dataclasses.asdict(stats.bytes)
        assert record["n_tokens"] == [*range(48, 512, 48), 512]
        parts = [n for part, n in record["bytes"].items() if part != "total"]
        assert np.array_equal(np.sum(parts, axis=0), record["bytes"]["total"])
        assert (record["snr_k"] is None) == (policy != "livekv")
    assert grown[SMALL]["bytes"]["tail"][1] > 0 == grown[SMALL]["bytes"]["tail"][-1]
    # Four layers; a bypass layer seals nothing, so it has no noise.
    assert [value is None for value in grown[PUBLISHED]["snr_v"]] == [True, False, False, False]
    assert min(grown[SMALL]["snr_k"] + grown[SMALL]["snr_v"]) > 10


def test_walsh_hadamard_is_the_rotation_of_the_cache(model):
    dump = session(model, SMALL).kv_dump(1)
    for side in "kv":
        block = int(dump[f"{side}_rotation"])
        assert block > 1
        stored = walsh_hadamard(dump[f"{side}_reconstruction"], block)
        assert np.allclose(stored, dump[f"{side}_stored"], atol=1e-4 * np.abs(stored).max())


def test_distributions_count_every_sealed_entry_once(profile, model):
    exact, sealed = session(model, "f16").kv_dump(3), session(model, SMALL).kv_dump(3)
    (record,) = [one for one in records(profile / "distributions.jsonl") if one["layer"] == 3]
    with np.load(profile / record["arrays"]) as arrays:
        for side in "kv":
            n_sealed = (sealed[f"{side}_group"] >= 0).sum() * exact[f"{side}_reconstruction"][:, 0].size
            n_apart = len(sealed[f"{side}_outlier_value"])
            assert 0 < n_apart == arrays[f"{side}_n_apart"] == arrays[f"{side}_apart"].sum()
            assert arrays[f"{side}_dense"].sum() == n_sealed - n_apart
            # An outlier stands for itself: what is drawn of it is what the cache keeps of it, but for its own rounding
            # and that of the layers before.
            kept = np.sort(np.abs(sealed[f"{side}_outlier_value"]))
            drawn = np.sort(np.abs(arrays[f"{side}_dots"][:, 1]))
            assert np.median(drawn) == pytest.approx(np.median(kept), rel=0.1)
            assert np.all(np.diff(arrays[f"{side}_quantiles"], axis=1) >= 0)


def test_quantiles_and_bins_of_a_layer_by_hand():
    values = np.arange(1 * 4 * 2, dtype=np.float32).reshape(1, 4, 2)  # [H, T, D]
    exact = {"k_reconstruction": values}
    sealed = {
        "k_rotation": np.array(0),
        "k_group": np.array([0, 0, 0, -1]),  # the last token is in the tail
        "k_outlier_index": np.array([[0, 2, 1]]),
    }
    found = layer_distributions(exact, sealed, "k")
    assert np.array_equal(found["quantiles"][:, [0, 2, 4]], [[0, 2, 4], [1, 3, 5]])
    assert np.array_equal(found["dots"], [[1, 5]]) and found["n_apart"] == 1
    assert found["dense"].sum() == 5 and found["apart"][-1] == 1 and len(found["dense"]) == N_BINS


def test_a_profile_goes_on(profile, monkeypatch, capsys):
    before = (profile / "growth.jsonl").read_text()
    monkeypatch.setattr(livekv.Model, "session", None)
    assert run(profile, "--kv", f"{SMALL},q8_0", "--step", 48, "--layers", "0") == 0
    assert (profile / "growth.jsonl").read_text() == before
    assert f"| {SMALL} |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layers", "4"], "--layers '4': the model has layers 0 to 3"),
        (["--layers", "x"], "--layers 'x' is not a list of numbers"),
        (["--windows", "2"], "one window of one text is profiled"),
        (["--n-ctx", "100000"], "tokens are too few for one window of 100000"),
        (["--kv", "nosuch"], "'nosuch' is neither a policy nor a preset"),
    ],
)
def test_bad_input_is_one_line(options, message, tmp_path, capsys):
    assert run(tmp_path / "out", *options) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("cache_profile: ") and message in said[0]
    assert not (tmp_path / "out").exists()
