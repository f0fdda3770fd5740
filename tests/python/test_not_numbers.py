"""A model whose logits are not numbers is refused by everything that asks for logits, and what was not measured is
null."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from gguf import GGUFReader
from recorded import make_recorded

TEXT = "It was the best of times, it was the worst of times. " * 40


def damaged(model, path, tensor, value):
    """A copy of a model of f32 weights with one of them changed."""
    shutil.copy(model, path)
    reader = GGUFReader(path, "r+")
    (one,) = [t for t in reader.tensors if t.name == tensor]
    one.data.reshape(-1).view(np.float32)[1] = value
    reader.data.flush()
    return path


@pytest.fixture(
    scope="module",
    params=[("output.weight", np.nan), ("output.weight", np.inf), ("blk.0.ffn_down.weight", np.nan)],
)
def broken(request, recorded_model, tmp_path_factory):
    return damaged(recorded_model, tmp_path_factory.mktemp("broken") / "m.gguf", *request.param)


@pytest.fixture(scope="module")
def recorded_model(tmp_path_factory):
    return make_recorded("hd8", tmp_path_factory.mktemp("recorded")).model


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize("kv", ["f16", "livekv"])
def test_every_tool_refuses_it_in_one_line(tools, broken, text, kv):
    calls = {
        "livekv-cli": ["-p", "It was", "-n", 4],
        "livekv-perplexity": ["-f", text, "-c", 64, "--windows", 2, "--kl-base", "f16", "-o", "json"],
        "livekv-bench": ["-p", 8, "-n", 2, "-r", 1],
    }
    for name, arguments in calls.items():
        done = tools.run(name, "-m", broken, "--kv", kv, "-t", 1, *arguments, check=False)
        assert done.returncode == 1, name
        assert "tokens/s" not in done.stdout and "same_top" not in done.stdout, name
        lines = [line for line in done.stderr.splitlines() if "not numbers" in line or "not a number" in line]
        assert len(lines) == 1 and lines[0].startswith(f"{name}: ") and "position" in lines[0], done.stderr


def test_the_package_refuses_it(livekv, broken):
    model = livekv.Model(broken, n_threads=1)
    for kv in (livekv.KVOptions(policy="f16"), livekv.KVOptions()):
        session = model.session(n_ctx=128, kv=kv)
        tokens = model.tokenize("It was the best")
        for call, options in ((session.prefill, {}), (session.eval, {}), (session.eval, {"all_logits": True})):
            with pytest.raises(livekv.Error, match="not numbers|not a number"):
                call(tokens, **options)
            assert session.n_tokens == 0
        with pytest.raises(livekv.Error, match="not numbers|not a number"):
            list(session.generate("It was", max_tokens=2))
        with pytest.raises(livekv.Error, match="not numbers|not a number"):
            livekv.fidelity(model, TEXT, n_ctx=64, windows=1, kv=kv, base=livekv.KVOptions(policy="f16"))


def test_what_was_not_measured_is_null(tools, story, livekv, tmp_path):
    def stats(*arguments):
        done = tools.run("livekv-cli", "-m", story, "-p", "Once", "-t", 1, *arguments, "--stats", tmp_path / "s.json")
        return json.loads((tmp_path / "s.json").read_text()), done.stderr

    told, _ = stats("-n", 4, "--ignore-eos", "--kv-error")
    assert told["decode_tps"] > 0 and told["ttft_s"] > 0 and len(told["logits_hash"]) == 16
    # Four tokens: nothing is in blocks.
    assert told["kv"]["snr_db"] == {side: [None] * told["model"]["n_layer"] for side in "kv"}
    assert told["kv"]["outlier_fraction"] is None and told["kv"]["saturated_fraction"] is None
    told, summary = stats("-n", 0)
    assert told["decode_tps"] is None and told["ttft_s"] is None and told["prefill_tps"] > 0
    assert len(told["logits_hash"]) == 16
    assert "\ngenerated 0 tokens; stopped: n_predict\n" in summary

    session = livekv.Model(story, n_threads=1).session(n_ctx=64, kv=livekv.KVOptions(measure_error=True))
    empty = session.kv_stats()
    assert session.kv_bits_per_value is empty.bits_per_value is None
    assert empty.compression_ratio is empty.memory_savings is empty.outlier_fraction is None
    assert set(empty.snr_k) == set(empty.snr_v) == {None}
    text = session.generate("Once", max_tokens=1)
    list(text)
    assert text.usage.decode_tokens_per_s is None and text.usage.ttft_s > 0 and text.usage.prefill_tokens_per_s > 0


def test_one_run_has_no_spread(tools, recorded_model):
    def bench(runs, output):
        return tools.run("livekv-bench", "-m", recorded_model, "-p", 8, "-n", 2, "-t", 1, "-r", runs, "-o", output).stdout

    (one,), (two,) = json.loads(bench(1, "json")), json.loads(bench(2, "json"))
    assert one["pp_spread"] is one["tg_spread"] is None and one["pp_tps"] > 0
    assert two["pp_spread"] >= 0 and two["tg_spread"] >= 0
    assert [cell.strip() for cell in bench(1, "md").splitlines()[-1].split("|")][4:7:2] == ["-", "-"]
    assert bench(1, "csv").splitlines()[1].split(",")[4:6] == ["", ""]
