"""The scalar reference of KVQuant against the golden vectors of golden_policies, and against NumPy in double precision."""

from __future__ import annotations

import re

import numpy as np
import pytest
from kvquant_reference import quantized, token_thresholds
from test_golden import close
from test_golden_policies import cases, load


def rows(seed: int, n: int = 300) -> np.ndarray:
    """float32 [2, n, 16], heads, tokens, channels of different spread and offset, some of them heavy-tailed."""
    rng = np.random.default_rng(seed)
    x = rng.standard_t(4, (2, n, 16)) * rng.uniform(0.1, 5, (2, 1, 16)) + rng.normal(size=(2, 1, 16))
    return x.astype(np.float32)


@pytest.mark.parametrize("case", cases("kvquant"))
def test_kvquant_reference_reproduces_the_golden_vectors(livekv, case):
    golden, config = load(case)
    assert (config["outlier_share"], config["n_exact_tokens"]) == (0.01, 1)
    k, v = golden["k_pre_rope"].astype(np.float32), golden["v"].astype(np.float32)
    made = {
        "k": livekv.kv.kvquant_keys(k, golden["k_lower"], golden["k_upper"], golden["k_codebook"]),
        "v": livekv.kv.kvquant_values(v, golden["v_codebook"]),
    }
    for side, tokens in made.items():
        np.testing.assert_array_equal(tokens.outlier, golden[f"{side}_outlier"])
        np.testing.assert_array_equal(tokens.codes, golden[f"{side}_codes"])
        close(tokens.reconstruction, golden[f"{side}_reconstruction"])
    close(made["v"].middle, golden["v_middle"])
    close(made["v"].half_range, golden["v_half_range"])
    assert len(golden["k_codebook"]) == 2 ** config["bits"]


@pytest.mark.parametrize("n", [1, 2, 100, 101, 102, 300, 1001])
def test_thresholds_are_the_nearest_quantiles(livekv, n):
    x = rows(n, n)
    lower, upper = livekv.kv.kvquant_key_ranges(x)
    np.testing.assert_array_equal(lower, np.quantile(x, 0.005, axis=1, method="nearest"))
    np.testing.assert_array_equal(upper, -np.quantile(-x, 0.005, axis=1, method="nearest"))
    tokens = x.transpose(1, 0, 2).reshape(n, -1)
    lower, upper = livekv.kv.kvquant_value_ranges(x)
    np.testing.assert_array_equal(lower, np.quantile(tokens, 0.005, axis=1, method="nearest"))
    np.testing.assert_array_equal(upper, -np.quantile(-tokens, 0.005, axis=1, method="nearest"))


def lloyd(x: np.ndarray, bits: int) -> np.ndarray:
    """K-means in double precision, a step after the other over all numbers."""
    x = np.sort(x.astype(np.float64))
    k = 2**bits
    book = x[(2 * np.arange(k) + 1) * len(x) // (2 * k)]
    for _ in range(10000):
        nearest = np.abs(x[:, None] - book).argmin(axis=1)
        moved = np.array([x[nearest == i].mean() if (nearest == i).any() else book[i] for i in range(k)])
        if np.array_equal(moved, book):
            return book
        book = moved
    raise AssertionError("no end of it")


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_codebook_is_what_k_means_makes_of_the_numbers(livekv, bits):
    x = rows(3)
    within = livekv.kv.kvquant_normalized(x, *livekv.kv.kvquant_key_ranges(x))
    np.testing.assert_allclose(livekv.kv.kvquant_codebook(within, bits), lloyd(within, bits), atol=1e-5)


def test_a_codebook_of_few_numbers_holds_each_of_them(livekv):
    book = livekv.kv.kvquant_codebook(np.float32([3, -1, 3, 2, -1]), 3)
    assert set(book.tolist()) == {-1, 2, 3} and (np.diff(book) >= 0).all()
    assert livekv.kv.kvquant_codebook(np.float32([0.5]), 4).tolist() == [0.5] * 16


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("n_exact", [0, 1, 7])
def test_keys_and_values_are_those_of_double_precision(livekv, bits, n_exact):
    calibration, x = rows(1), rows(2, 77)
    x[:, :, 5] = 0.25  # a channel that never moves, as in the calibration
    calibration[:, :, 5] = 0.25
    lower, upper = livekv.kv.kvquant_key_ranges(calibration)
    book = livekv.kv.kvquant_codebook(livekv.kv.kvquant_normalized(calibration, lower, upper), bits)
    keys = livekv.kv.kvquant_keys(x, lower, upper, book, n_exact=n_exact)
    compare(keys, quantized(x, lower[:, None], upper[:, None], book, n_exact))
    assert (keys.reconstruction[:, :, 5] == 0.25).all()
    values = livekv.kv.kvquant_values(x, book, n_exact=n_exact)
    compare(values, quantized(x, *token_thresholds(x), book, n_exact))


def compare(made, expected: tuple) -> None:
    outlier, codes, reconstruction, close_call = expected
    np.testing.assert_array_equal(made.outlier, outlier)
    assert close_call.mean() < 1e-3
    np.testing.assert_array_equal(made.codes[~close_call], codes[~close_call])
    np.testing.assert_allclose(
        made.reconstruction[~close_call],
        reconstruction[~close_call],
        rtol=1e-6,
        atol=1e-6 * np.abs(reconstruction).max(),
    )


def test_more_bits_lose_less(livekv):
    x = rows(4)
    lower, upper = livekv.kv.kvquant_key_ranges(x)
    within = livekv.kv.kvquant_normalized(x, lower, upper)
    lost = [
        np.square(
            livekv.kv.kvquant_keys(x, lower, upper, livekv.kv.kvquant_codebook(within, b)).reconstruction - x
        ).sum()
        for b in (2, 3, 4)
    ]
    assert lost[0] > 3 * lost[1] > 9 * lost[2] > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda kv, x: kv.kvquant_codebook(np.float32([1, 2]), 5), "bits is 5; it must be 2, 3 or 4"),
        (lambda kv, x: kv.kvquant_codebook(np.float32([]), 4), "a codebook is made of numbers in one dimension"),
        (lambda kv, x: kv.kvquant_codebook(np.float32([1, np.nan]), 4), "x: number 1 is not finite"),
        (lambda kv, x: kv.kvquant_values(x, np.zeros(5, np.float32)), "a codebook has 4, 8 or 16 numbers"),
        (lambda kv, x: kv.kvquant_keys(x, x[0], x[0], np.zeros(4)), r"lower must be numbers of shape [2, 16]"),
        (lambda kv, x: kv.kvquant_keys(x, x[:, 0], x[:, 0] - 1, np.zeros(4)), "lower is above upper at number 0"),
        (lambda kv, x: kv.kvquant_values(x, np.zeros(4), n_exact=-1), "n_exact is -1; it must be 0 or more"),
        (lambda kv, x: kv.kvquant_key_ranges(x[:, :0]), "a chunk must be [n_head_kv, n, head_dim] with none of them 0"),
    ],
)
def test_what_is_no_key_value_or_codebook_is_refused(livekv, call, message):
    with pytest.raises(livekv.Error, match=re.escape(message)):
        call(livekv.kv, rows(5))
