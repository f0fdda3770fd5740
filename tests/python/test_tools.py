"""livekv-bench and livekv-perplexity: the shapes of their output, and that the numbers mean what they say."""

from __future__ import annotations

import csv
import io
import json
import math

import convert_hf
import numpy as np
import pytest
import tiny_models
from tiny_models import SHAPES

TEXT = "It was a bright cold day in the park, and the clocks were striking. " * 40


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tiny_models.make(tmp_path_factory.mktemp("tools") / "tiny", SHAPES["gqa_hd64"])
    convert_hf.convert(folder, folder.with_suffix(".gguf"), "f16")
    return folder.with_suffix(".gguf")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return path


def test_bench_gives_a_row_for_each_cache_and_depth_in_every_format(tools, model):
    common = ("-m", model, "-p", 32, "-n", 4, "-d", "0,64", "--kv", "f16,q4_0,livekv", "--chunk-size", 32, "-r", 2, "-t", 2)
    rows = json.loads(tools.run("livekv-bench", *common, "-o", "json").stdout)
    assert [(r["kv"], r["depth"]) for r in rows] == [(kv, depth) for depth in (0, 64) for kv in ("f16", "q4_0", "livekv")]
    for row in rows:
        assert row.keys() == {"kv", "depth", "pp_tps", "tg_tps", "pp_spread", "tg_spread", "kv_bytes"}
        assert row["pp_tps"] > 0 and row["tg_tps"] > 0 and row["pp_spread"] >= 0
    assert rows[0]["kv_bytes"] / rows[1]["kv_bytes"] == pytest.approx(16 / 4.5)
    assert rows[2]["kv_bytes"] < rows[5]["kv_bytes"]  # a cache that grows: the depth is in it
    table = list(csv.DictReader(io.StringIO(tools.run("livekv-bench", *common, "-o", "csv").stdout)))
    assert [(row["kv"], int(row["depth"]), int(row["kv_bytes"])) for row in table] == [(r["kv"], r["depth"], r["kv_bytes"]) for r in rows]
    assert table[0].keys() == rows[0].keys()
    assert tools.run("livekv-bench", *common).stdout.count("\n") == 8


def test_perplexity_equals_the_one_computed_from_logits(tools, model, text, tmp_path):
    n = 64
    result = json.loads(
        tools.run("livekv-perplexity", "-m", model, "-f", text, "-c", n, "--windows", 3, "-o", "json").stdout
    )
    ids = tools.tokenize(model, TEXT)
    nll = []
    for w in range(3):
        window = ids[w * n : (w + 1) * n]
        logits = tools.logits(model, window, tmp_path / "logits").astype(np.float64)
        log_p = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True)) - logits.max(1, keepdims=True)
        nll += [-log_p[i, window[i + 1]] for i in range(n // 2, n - 1)]
    assert result["n_tokens"] == len(nll) == 3 * 31
    # the tool computes logits for half of each window, which sums in another order over the f16 cache
    assert result["ppl"] == pytest.approx(math.exp(np.mean(nll)), rel=2e-3)
    stderr = result["ppl"] * np.std(nll, ddof=1) / math.sqrt(len(nll))
    assert result["ppl_stderr"] == pytest.approx(stderr, rel=1e-2)


def test_divergence_has_every_key_and_orders_the_caches(tools, model, text):
    def measure(kv: str) -> dict:
        arguments = ("-m", model, "-f", text, "-c", 64, "--windows", 4, "--kv", kv, "--kl-base", "f16", "-o", "json")
        return json.loads(tools.run("livekv-perplexity", *arguments).stdout)

    same, q8, q4 = measure("f16"), measure("q8_0"), measure("q4_0")
    assert {"ppl", "ppl_stderr", "kl_mean", "kl_mean_stderr", "kl_median", "kl_p999", "kl_max", "same_top",
            "bits_per_value", "n_tokens"} <= same.keys()  # fmt: skip
    assert same["kl_mean"] == 0.0 and same["same_top"] == 1.0
    assert 0 < q8["kl_mean"] < q4["kl_mean"]
    assert q8["kl_median"] <= q8["kl_p999"] <= q8["kl_max"]


@pytest.mark.parametrize("name", ["livekv-bench", "livekv-perplexity"])
def test_mistakes_are_one_line(tools, model, tmp_path, name):
    done = tools.run(name, check=False)
    assert done.returncode == 2 and done.stderr == f"{name}: no model given (-m FILE)\n"
    done = tools.run(name, "-m", tmp_path / "none.gguf", *(["-f", model] if "perp" in name else []), check=False)
    assert done.returncode == 1 and "No such file" in done.stderr and done.stderr.count("\n") == 1


def test_a_text_shorter_than_a_window_is_refused(tools, model, tmp_path):
    (tmp_path / "short.txt").write_text("too short")
    done = tools.run("livekv-perplexity", "-m", model, "-f", tmp_path / "short.txt", "-c", 4096, check=False)
    assert done.returncode == 1 and "one window needs 4096" in done.stderr
