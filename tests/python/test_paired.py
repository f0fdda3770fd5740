"""Paired differences and their standard errors, and the tables that show them."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest

from python_eval.errors import EvalError
from python_eval.paired import Paired, mean_se, paired
from python_eval.tables import markdown, write_tables


def test_a_difference_is_that_of_the_samples():
    got = paired([1.0, 2.0, 4.0], [2.0, 2.0, 6.0])  # 1, 0, 2: mean 1, s 1
    assert got == Paired(1.0, pytest.approx(1 / math.sqrt(3)), 3)
    assert paired([0.5], [0.25]) == Paired(-0.25, None, 1)


def test_the_error_is_the_scatter_of_the_mean():
    rng = np.random.default_rng(1)
    means, errors = [], []
    for _ in range(2000):
        a = rng.normal(size=50)
        got = paired(a, a + rng.normal(0.3, 0.1, size=50))
        means.append(got.mean)
        errors.append(got.se)
    assert np.std(means) == pytest.approx(np.mean(errors), rel=0.05)


def test_clusters_are_the_independent_samples():
    # Every sample ten times: the same error, where counting all of them would make it sqrt(10) too small.
    a, b = [1.0, 2.0, 4.0], [2.0, 2.0, 6.0]
    got = paired(np.repeat(a, 10), np.repeat(b, 10), np.repeat(["x", "y", "z"], 10).tolist())
    assert got == Paired(1.0, pytest.approx(paired(a, b).se), 3)
    assert mean_se([1.0, 3.0], ["w", "w"]) == Paired(2.0, None, 1)


def test_clusters_of_unequal_size_are_covered():
    rng = np.random.default_rng(2)
    means, errors = [], []
    sizes = [5, 10, 20, 40] * 10
    labels = np.repeat(np.arange(len(sizes)), sizes).tolist()
    for _ in range(1500):
        values = np.repeat(rng.normal(size=len(sizes)), sizes) + rng.normal(size=sum(sizes))
        got = mean_se(values, labels)
        means.append(got.mean)
        errors.append(got.se)
    assert np.std(means) == pytest.approx(np.mean(errors), rel=0.08)


def test_what_cannot_be_paired():
    for a, b, clusters, message in [
        ([1.0], [1.0, 2.0], None, r"cannot pair \(1,\) with \(2,\)"),
        ([], [], None, "no samples"),
        ([1.0], [math.nan], None, "not finite"),
        ([1.0, 2.0], [1.0, 2.0], ["w"], "1 cluster labels for 2 samples"),
    ]:
        with pytest.raises(EvalError, match=message):
            paired(a, b, clusters)


ROWS = [
    {"cache": "f16", "score": 12.3456, "tokens/s": 12345.6, "n": 3},
    {"cache": "a|b", "score": None, "n": 3, "difference": Paired(-0.5, 0.25, 3)},
]


def test_tables_have_three_forms(tmp_path):
    write_tables(ROWS, tmp_path, "scores", ["Scores of so small a model mean nothing."])
    read = json.loads((tmp_path / "scores.json").read_text())
    assert read["notes"] == ["Scores of so small a model mean nothing."]
    assert read["rows"][0] == {"cache": "f16", "score": 12.3456, "tokens/s": 12345.6, "n": 3, "difference": None}
    assert read["rows"][1]["difference"] == {"mean": -0.5, "se": 0.25, "n": 3}
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert lines[0] == "# Scores of so small a model mean nothing."
    first, second = csv.DictReader(lines[1:])
    assert first["score"] == "12.3456" and first["difference"] == first["difference_se"] == ""
    assert second["cache"] == "a|b" and (second["difference"], second["difference_se"]) == ("-0.5", "0.25")
    assert markdown(ROWS, read["notes"]) == (
        "Scores of so small a model mean nothing.\n\n"
        "| cache | score | tokens/s | n | difference |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        "| f16 | 12.35 | 12346 | 3 | - |\n"
        "| a\\|b | - | - | 3 | -0.5 ± 0.25 |\n"
    )
    assert (tmp_path / "scores.md").read_text() == markdown(ROWS, read["notes"])
