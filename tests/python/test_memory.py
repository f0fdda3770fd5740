"""Resident memory of one stretch is not that of the one before."""

from __future__ import annotations

import pytest

from python_eval.memory import begin_peak, current_rss, peak_rss

MIB = 1 << 20


@pytest.mark.uninstrumented
def test_a_peak_is_of_its_own_stretch():
    if not begin_peak():
        pytest.skip("this system does not let a process reset its peak")
    before = current_rss()
    assert before <= peak_rss() < before + 8 * MIB
    block = bytearray(b"\1") * (96 * MIB)
    assert peak_rss() > before + 90 * MIB
    del block
    assert peak_rss() > before + 90 * MIB > current_rss()
    begin_peak()
    assert peak_rss() < before + 16 * MIB
