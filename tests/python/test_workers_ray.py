"""Jobs on a Ray cluster of two nodes, which the test starts and stops."""

from __future__ import annotations

import json
import warnings

import pytest
from eval_workers import Counting, Failing

from python_eval.errors import EvalError
from python_eval.workers import run_jobs

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:ray.*")]
pytest.importorskip("ray", reason="ray is not installed: requirements/eval.txt")


@pytest.fixture(scope="module")
def address():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own, at import and while its processes start
        from ray.cluster_utils import Cluster

        cluster = Cluster()
        try:
            for _ in range(2):
                cluster.add_node(num_cpus=1, object_store_memory=80 << 20, include_dashboard=False)
            yield cluster.address
        finally:
            cluster.shutdown()


def test_each_node_works_and_keeps_what_it_loaded(address):
    results = dict(run_jobs(range(10), Counting(), 2, address))
    assert {index: square for index, (square, _, _) in results.items()} == {i: i * i for i in range(10)}
    processes = {}
    for _, process, nth in results.values():
        processes.setdefault(process, []).append(nth)
    assert len(processes) == 2
    assert all(sorted(counts) == list(range(1, len(counts) + 1)) for counts in processes.values())


def test_errors_and_deaths_lose_nothing_finished(address):
    for work, message in [
        (Failing(raises_at=4), "job 4 cannot be done"),
        (Failing(dies_at=4), "a Ray worker died; what is finished is kept"),
    ]:
        results = {}
        with pytest.raises(EvalError, match=message):
            for index, result in run_jobs(range(200), work, 2, address):
                results[index] = result
        assert {i: 2 * i for i in range(3)}.items() <= results.items() and 4 not in results and len(results) < 200


def test_longbench_runs_on_the_cluster(address, tmp_path, root, livekv):
    from python_eval.longbench.__main__ import main

    row = {"input": "Type:", "context": "Who is it?", "answers": ["Person"], "length": 3, "all_classes": ["Person"]}
    (tmp_path / "trec.jsonl").write_text((json.dumps(row) + "\n") * 4)
    given = ["--model", str(root / "tests/models/story.gguf"), "--tasks", "trec", "--data-dir", str(tmp_path)]
    given += ["--kv", "f16,livekv", "--n-ctx", "256", "--threads", "1"]
    assert main([*given, "--out", str(tmp_path / "ray"), "--workers", "2", "--ray", address]) == 0
    assert main([*given, "--out", str(tmp_path / "here")]) == 0
    said = [
        sorted((r["index"], r["pred"]) for r in map(json.loads, path.read_text().splitlines()))
        for where in ("ray", "here")
        for path in [tmp_path / where / "predictions" / "livekv" / "trec.jsonl"]
    ]
    assert said[0] == said[1] and len(said[0]) == 4


def test_no_cluster_is_said_plainly():
    with pytest.raises(EvalError, match=r"no Ray cluster at '127\.0\.0\.1:1': "):
        list(run_jobs([1], Counting(), 2, "127.0.0.1:1"))
