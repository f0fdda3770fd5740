"""A server goes on from what another one has read."""

from __future__ import annotations

from types import SimpleNamespace

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


def test_a_folder_that_goes_is_said_once_and_costs_no_answer(livekv, opening, tmp_path, caplog):
    for needed in ("fastapi", "llguidance", "prometheus_client"):
        pytest.importorskip(needed)
    from livekv.serve.app import make_app
    from livekv.serve.limits import Limits
    from livekv.serve.scheduler import Scheduler
    from livekv.serve.worker import Worker
    from starlette.testclient import TestClient

    store = livekv.ChunkStore(tmp_path / "store")
    model = livekv.Model(STORY, n_threads=1, store=store)
    app = make_app(Worker(Scheduler(model, Limits(), 1500, livekv.KVOptions(chunk_size=64))), "story")
    (tmp_path / "store").rmdir()
    with TestClient(app, base_url="http://localhost") as client:
        for start in (0, 700):
            body = {"prompt": opening.read_text()[start : start + 2000], "max_tokens": 3}
            assert client.post("/v1/completions", json=body).json()["usage"]["completion_tokens"] == 3
        assert "livekv_store_failed_total 1.0" in client.get("/metrics").text
    assert [record.message[:38] for record in caplog.records if record.name == "livekv.serve"] == ["livekv.serve: not everything is stored"]


def test_what_a_store_does_not_take_is_said_until_it_does(livekv, caplog):
    pytest.importorskip("fastapi")
    from livekv.serve.worker import Worker

    store = SimpleNamespace(problem="")
    worker = Worker(SimpleNamespace(model=SimpleNamespace(store=store)))
    for store.problem in ("", "it is full", "it is full", "", "", "it is gone"):
        worker._say_of_the_store()
    said = ["not everything is stored: it is full", "everything is stored again", "not everything is stored: it is gone"]
    assert [record.message for record in caplog.records] == [f"livekv.serve: {one}" for one in said]
