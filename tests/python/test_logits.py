"""The engine computes what transformers computes: logits and greedy continuations of the tiny models.

The reference is recorded (record_fixtures.py); where torch and transformers are installed it is computed anew as well.
"""

from __future__ import annotations

import numpy as np
import pytest
from recorded import Recorded, make_recorded
from tiny_models import SHAPES

# The engine multiplies in float32 as the reference does, but its cache is f16, and ggml's attention over an f16 cache
# also rounds q and sums values in f16. Measured with these models: up to 6.3e-4.
LOGITS_TOLERANCE = 1e-3  # of the range of the reference's logits
# A chunk reads its own keys and values from the same f16 cache as earlier ones: only sums may be grouped differently.
CHUNK_TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=list(SHAPES))
def case(request, tmp_path_factory) -> Recorded:
    return make_recorded(request.param, tmp_path_factory.mktemp(request.param))


def deviation(logits: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference as a share of the reference's range."""
    assert logits.shape == reference.shape
    assert np.isfinite(logits).all()
    return float(np.abs(logits - reference).max() / (reference.max() - reference.min()))


def test_logits_equal_the_recorded_ones(case, tools, tmp_path):
    got = tools.logits(case.model, case.tokens, tmp_path / "logits")
    assert deviation(got, case.logits) < LOGITS_TOLERANCE


def test_greedy_continuation_equals_the_recorded_one(case, tools, tmp_path):
    assert tools.greedy(case.model, case.tokens, len(case.greedy), tmp_path / "logits") == case.greedy


@pytest.mark.parametrize("chunk", [7, 32])
def test_chunked_prefill_equals_unchunked(case, tools, tmp_path, chunk):
    whole = tools.logits(case.model, case.tokens, tmp_path / "whole")
    chunked = tools.logits(case.model, case.tokens, tmp_path / "chunked", "--pass", chunk)
    np.testing.assert_array_equal(chunked.shape, whole.shape)
    assert deviation(chunked, whole) < CHUNK_TOLERANCE


def test_a_repeated_run_gives_the_same_bits(case, tools, tmp_path):
    first = tools.logits(case.model, case.tokens, tmp_path / "first")
    second = tools.logits(case.model, case.tokens, tmp_path / "second")
    np.testing.assert_array_equal(first, second)


def test_logits_equal_those_of_transformers_now(case, tools, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import torch_reference

    model = torch_reference.load(case.folder)
    reference = torch_reference.logits(model, case.tokens)
    assert deviation(reference, case.logits) < 1e-5, "the recorded logits are not transformers'"
    got = tools.logits(case.model, case.tokens, tmp_path / "logits")
    assert deviation(got, reference) < LOGITS_TOLERANCE
    expected = torch_reference.greedy(model, case.tokens, len(case.greedy))
    assert tools.greedy(case.model, case.tokens, len(case.greedy), tmp_path / "logits") == expected
