"""The scalar reference of policy fastkv against the golden vectors of golden_policies, from C++ and from Python."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest
from test_golden_policies import cases, load


def inputs(golden: dict, config: dict) -> tuple[np.ndarray, np.ndarray]:
    assert (config["window_size"], config["kernel_size"]) == (8, 7)  # the method's constants
    q, k = (np.ascontiguousarray(golden[name], np.float32) for name in ("q_window", "k"))
    return q, k


def compare(made: dict, golden: dict) -> None:
    for name in ("kept", "going_on"):
        np.testing.assert_array_equal(made[name], golden[name])
    for name in ("score", "tsp_score"):
        expected = golden[name]
        np.testing.assert_allclose(made[name], expected.ravel(), rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("case", cases("fastkv"))
def test_fastkv_reference_reproduces_the_golden_vectors(tools, case):
    golden, config = load(case)
    q, k = inputs(golden, config)
    stdin = json.dumps(config).encode() + b"\n" + q.tobytes() + k.tobytes()
    done = subprocess.run([tools.bin_dir / "livekv-fastkv"], input=stdin, capture_output=True, check=True)
    compare(json.loads(done.stdout), golden)


@pytest.mark.parametrize("case", cases("fastkv"))
def test_fastkv_choice_over_arrays_reproduces_the_golden_vectors(livekv, case):
    golden, config = load(case)
    rates = {name: config[name] for name in ("retain_rate", "tsp_rate", "pooling")}
    chosen = livekv.kv.fastkv_choose(*inputs(golden, config), **rates)
    made = {name: getattr(chosen, name) for name in ("kept", "going_on")}
    compare(made | {"score": chosen.score.ravel(), "tsp_score": chosen.tsp_score}, golden)


def random_rows(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    return tuple(rng.standard_normal(shape).astype(np.float32) for shape in ((4, min(n, 8), 16), (2, n, 16)))


@pytest.mark.parametrize("n", [1, 3, 8, 9, 79, 80, 81])
def test_the_window_is_kept_whatever_the_rate(livekv, n):
    chosen = livekv.kv.fastkv_choose(*random_rows(n))
    last = list(range(max(0, n - 8), n))
    n_kept = min(n, max(8, n // 10))
    assert chosen.kept.shape == (2, n_kept) and chosen.kept[:, -len(last) :].tolist() == [last, last]
    assert len(chosen.going_on) == min(n, max(8, n // 5)) and chosen.going_on[-len(last) :].tolist() == last
    assert chosen.score.shape == (2, n - len(last))


def test_later_layers_keep_their_share_of_what_came_in(livekv):
    q, k = random_rows(200)
    assert livekv.kv.fastkv_choose(q, k, is_later=True).kept.shape == (2, 100)
    assert livekv.kv.fastkv_choose(q, k, is_later=True, retain_rate=0.3).kept.shape == (2, 200)


@pytest.mark.parametrize("pooling", ["max", "avg"])
def test_of_equal_scores_lower_positions_are_kept(livekv, pooling):
    q, k = np.zeros((4, 8, 16), np.float32), np.zeros((2, 120, 16), np.float32)
    chosen = livekv.kv.fastkv_choose(q, k, retain_rate=0.2, pooling=pooling)
    first = 3 if pooling == "avg" else 0  # at an end fewer neighbours are summed
    expected = [*range(first, first + 16), *range(112, 120)]
    assert chosen.kept.tolist() == [expected, expected]


def test_a_window_query_gives_nothing_to_tokens_behind_it(livekv):
    """Key 12 is the sixth of the window: were it seen by the five queries before it, they would have nothing left to
    give to the others."""
    k = np.zeros((1, 15, 4), np.float32)
    k[0, 12] = 50.0
    q = np.ones((1, 8, 4), np.float32)
    n_seen = np.arange(8, 13)  # by the queries of positions 7 ... 11
    chosen = livekv.kv.fastkv_choose(q, k)
    np.testing.assert_allclose(chosen.score, np.full((1, 7), (1.0 / n_seen).sum()), rtol=1e-6)


@pytest.mark.parametrize(("fields", "said"), [
    ({"retain_rate": 0.0}, "retain_rate: 0 is not in (0, 1]"),
    ({"tsp_rate": 1.5}, "tsp_rate: 1.5 is not in (0, 1]"),
    ({"tsp_rate": float("nan")}, "tsp_rate: nan is not in (0, 1]"),
    ({"pooling": "median"}, "pooling: there is no 'median'"),
])  # fmt: skip
def test_rates_and_poolings_that_are_none_are_refused(livekv, fields, said):
    with pytest.raises(livekv.Error) as refused:
        livekv.kv.fastkv_choose(*random_rows(20), **fields)
    assert str(refused.value) == said


def test_queries_are_the_last_ones(livekv):
    q, k = random_rows(20)
    with pytest.raises(livekv.Error, match="of 20 keys q has the last 8 tokens"):
        livekv.kv.fastkv_choose(np.ascontiguousarray(q[:, :7]), k)
    with pytest.raises(livekv.Error, match="is not a finite number"):
        livekv.kv.fastkv_choose(q, np.full_like(k, np.nan))
