"""A server goes on from what another one has read."""

from __future__ import annotations

import pytest
from conftest import ROOT
from serving import served

pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

STORY = ROOT / "tests" / "models" / "story.gguf"


def test_a_server_goes_on_from_what_another_has_read(build_dir, opening, tmp_path):
    wanted = {"model": "story", "prompt": opening.read_text()[:3000], "max_tokens": 12, "temperature": 0, "seed": 1}
    answers = []
    for store in ([], ["--store", tmp_path / "store"], ["--store", tmp_path / "store"]):
        with served(build_dir, "-m", STORY, "-t", 1, "-c", 1500, "--kv", "livekv:chunk-size=64", *store) as url:
            answer = httpx.post(f"{url}/v1/completions", json=wanted, timeout=120).json()
            metrics = httpx.get(f"{url}/metrics").text
        answers.append((answer["choices"][0]["text"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]))
    assert answers[0][0] == answers[1][0] == answers[2][0]
    assert answers[0][1] == answers[1][1] == 0 and answers[2][1] >= 5 * 64
    assert f"livekv_store_tokens_read_total {float(answers[2][1])}" in metrics
    assert "livekv_store_pieces_written_total 0.0" in metrics
