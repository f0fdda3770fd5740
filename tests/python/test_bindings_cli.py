"""The numbers from Python are the command line's: tokens, text, statistics, perplexity and divergence."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

CACHES = {
    "livekv": (),
    "livekv:kv-error": ("--kv-error",),
    "small:chunk-size=128:warmup-chunks=1": ("--preset", "small", "--chunk-size", "128", "--warmup-chunks", "1"),
    "reference": ("--preset", "reference"),
    "f16": ("--kv", "f16"),
    "q4_0_rot": ("--kv", "q4_0_rot"),
}


@pytest.fixture(scope="module")
def stats(tools, story, opening, tmp_path_factory):
    """A greedy run of the command line with a cache: its text and its --stats."""
    done = {}

    def run(spec: str) -> tuple[str, dict]:
        if spec not in done:
            path = tmp_path_factory.mktemp("stats") / "s.json"
            options = ("-m", story, "-f", opening, "-n", 40, "--temp", 0, "-t", 1, "--stats", path, *CACHES[spec])
            text = tools.run("livekv-cli", *options).stdout
            done[spec] = text.removesuffix("\n"), json.loads(path.read_text())
        return done[spec]

    return run


@pytest.mark.parametrize("text", ["Hello, world!", "  two  spaces\n\ttab", "<s>quoted</s>", "żółw 乌龟 🐢", ""])
def test_tokens_are_the_command_lines(tools, story, model, text):
    assert model.tokenize(text, parse_special=True) == tools.tokenize(story, text)


@pytest.mark.parametrize("spec", CACHES)
def test_greedy_text_and_statistics_are_the_command_lines(livekv, model, opening, stats, spec):
    text, facts = stats(spec)
    with model.session(n_ctx=facts["options"]["n_ctx"] or 2048, kv=livekv.KVOptions.parse(spec)) as session:
        generation = session.generate(opening.read_text(), max_tokens=40, temperature=0)
        assert "".join(generation) == text == generation.text
        usage = generation.usage
        assert (usage.prompt_tokens, usage.generated_tokens) == (facts["n_prompt"], facts["n_generated"])
        assert usage.finish_reason == "length"
        kv = session.kv_stats()
        told = facts["kv"]
        for field in ("bits_per_value", "compression_ratio", "memory_savings", "values_given_back", "outlier_fraction", "saturated_fraction",
                      "workspace_bytes"):  # fmt: skip
            assert getattr(kv, field) == told[field], field
        assert vars(kv.bytes) == told["bytes"] and kv.bytes.total == session.kv_bytes == facts["kv_bytes"]
        assert session.kv_bits_per_value == kv.bits_per_value == facts["kv_bits_per_value"]
        if "kv-error" in spec:
            assert list(kv.snr_k) == told["snr_db"]["k"] and list(kv.snr_v) == told["snr_db"]["v"]
            assert len(kv.snr_k) == model.n_layer and min(kv.snr_k) > 10
        else:
            assert kv.snr_k is None and kv.snr_v is None and kv.saturated_fraction is None


def test_the_models_facts_are_the_command_lines(livekv, model, story, stats):
    told = stats("f16")[1]["model"]
    assert model.path == told["path"] == str(story)
    for field in told.keys() - {"path", "bytes"}:
        assert getattr(model, field) == told[field], field
    assert model.weight_bytes == told["bytes"]
    assert model.tokenize("")[0] == model.bos_token and model.is_end_of_generation(model.eos_token)
    assert "4.0 M parameters" in model.description and not model.has_chat_template


def test_sampled_text_is_the_command_lines_with_the_same_seed(tools, story, model):
    sampling = ("--temp", 0.9, "--top-k", 20, "--top-p", 0.9, "--min-p", 0.02, "--repeat-penalty", 1.1, "-s", 7)
    said = tools.run("livekv-cli", "-m", story, "-p", "Once upon a time", "-n", 50, "-c", 256, "-t", 1, *sampling).stdout
    generation = model.session(256).generate("Once upon a time", 50, temperature=0.9, top_k=20, top_p=0.9, min_p=0.02,
                                             repeat_penalty=1.1, seed=7)  # fmt: skip
    assert "".join(generation) == said.removesuffix("\n")
    assert generation.usage.seed == 7


@pytest.mark.parametrize("spec", ["livekv", "small:chunk-size=128:warmup-chunks=1", "f16"])
def test_fidelity_is_the_command_lines(livekv, tools, story, model, opening, tmp_path, spec):
    options = ("-m", story, "-f", opening, "-c", 512, "-t", 1, "--kl-base", "q8_0", "--kl-tokens", tmp_path / "kl")
    told = json.loads(tools.run("livekv-perplexity", *options, *CACHES[spec], "-o", "json").stdout)
    kv = livekv.KVOptions.parse(spec)
    seen = []
    result = livekv.fidelity(model, opening.read_text(), 512, kv=kv, base=livekv.KVOptions(policy="q8_0", chunk_size=kv.chunk_size),
                             progress=lambda done, total: seen.append((done, total)))  # fmt: skip
    assert seen == [(1, 3), (2, 3), (3, 3)]
    names = {"perplexity": "ppl", "perplexity_se": "ppl_stderr", "n_scored": "n_tokens", "n_windows": "n_windows",
             "bits_per_value": "bits_per_value", "kl_mean": "kl_mean", "kl_se": "kl_mean_stderr", "kl_max": "kl_max",
             "kl_median": "kl_median", "kl_p999": "kl_p999", "same_top": "same_top", "base_perplexity": "base_ppl"}  # fmt: skip
    assert {field.name for field in dataclasses.fields(result)} == names.keys() | {"nll", "kl", "base_nll"}
    assert told.keys() == {*names.values(), "kv", "n_ctx", "kl_base"}
    for field, name in names.items():
        assert getattr(result, field) == told[name], field
    assert result.nll.shape == result.kl.shape == result.base_nll.shape == (3, 255) and result.nll.dtype == np.float64
    np.testing.assert_array_equal(result.kl.ravel(), np.fromfile(tmp_path / "kl", "<f8"))
    assert np.exp(result.nll.mean()) == pytest.approx(result.perplexity, rel=1e-12)
    assert np.exp(result.base_nll.mean()) == pytest.approx(result.base_perplexity, rel=1e-12)


def test_fidelity_without_a_base_and_with_one_of_other_options(livekv, model, opening):
    text = model.tokenize(opening.read_text())
    alone = livekv.fidelity(model, np.array(text), 256, windows=2)
    assert alone.n_windows == 2 and alone.nll.shape == (2, 127) and alone.kl is None and alone.kl_mean is None
    same = livekv.fidelity(model, text, 256, windows=2, base=livekv.KVOptions())
    assert same.kl_max == 0.0 and same.same_top == 1.0
    np.testing.assert_array_equal(same.nll, alone.nll)
    other = livekv.fidelity(model, text, 256, 2, kv=livekv.KVOptions(chunk_size=64), base=livekv.KVOptions(chunk_size=128))
    assert 0 < other.kl_mean < 0.1
    with pytest.raises(ZeroDivisionError):  # what the caller's own function raises comes through
        livekv.fidelity(model, text, 256, progress=lambda done, total: 1 // 0)
    for arguments, message in [({"n_ctx": 4}, "a window of 4 tokens is too short"), ({"windows": 0}, "windows is 0"),
                               ({"n_ctx": 5000}, "one window needs 5000"), ({"n_threads": 0}, "n_threads is 0")]:  # fmt: skip
        with pytest.raises(livekv.Error, match=message):
            livekv.fidelity(model, text, **arguments)
