"""A prompt that was read once is not computed again by any process that is given the same folder."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time

import pytest
from conftest import ROOT

STORY = ROOT / "tests" / "models" / "story.gguf"
CHUNK = 64


@pytest.fixture(scope="module")
def prompt(opening):
    return opening.read_text()[:3000]


@pytest.fixture
def cli(build_dir):
    def run(*options, environment=None, **more):
        command = [build_dir / "bin" / "livekv-cli", "-m", STORY, "-t", "1", *map(str, options)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300,
                              env=os.environ | (environment or {}), **more)  # fmt: skip

    return run


def generation(prompt, *options, stats):
    return ["-p", prompt, "-n", 20, "--temp", 0, "-s", 1, "--chunk-size", CHUNK, "--stats", stats, *options]


def test_the_second_run_starts_behind_what_the_first_has_read(cli, prompt, tmp_path):
    stats = tmp_path / "stats.json"
    store = tmp_path / "store"
    runs = []
    for options in ([], ["--kv-store", store], ["--kv-store", store]):
        done = cli(*generation(prompt, *options, stats=stats))
        assert done.returncode == 0, done.stderr
        runs.append((done.stdout, json.loads(stats.read_text()), done.stderr))
    plain, first, second = runs
    assert plain[0] == first[0] == second[0]
    assert plain[1]["logits_hash"] == first[1]["logits_hash"] == second[1]["logits_hash"]
    n = plain[1]["n_prompt"]
    assert plain[1]["store"] is None and plain[1]["n_reused"] == first[1]["n_reused"] == 0
    assert second[1]["n_reused"] == second[1]["store"]["tokens_read"] == (n - 1) // CHUNK * CHUNK > 8 * CHUNK
    assert first[1]["store"]["pieces_written"] == n // CHUNK - 1 == len(list(store.iterdir()))
    assert second[1]["store"]["pieces_written"] == 0
    assert f"{second[1]['n_reused']} of them were known" in second[2]
    assert store.stat().st_mode & 0o077 == 0, "prompts are their owner's"
    listed = cli("--kv-store", store, "--kv-store-list")
    assert listed.returncode == 0 and listed.stderr == ""
    assert f"\n{n // CHUNK - 1} pieces, " in listed.stdout and "tokens 0 to 127  livekv  weights" in listed.stdout
    by_variable = cli(*generation(prompt, stats=stats), environment={"LIVEKV_KV_STORE": str(store)})
    assert by_variable.stdout == plain[0] and json.loads(stats.read_text())["n_reused"] == second[1]["n_reused"]


def test_a_killed_run_loses_a_chunk_at_most(cli, build_dir, prompt, tmp_path):
    stats = tmp_path / "stats.json"
    expected = cli(*generation(prompt, stats=stats))
    for n_pieces in (1, 4, 7):
        store = tmp_path / f"store{n_pieces}"
        command = [build_dir / "bin" / "livekv-cli", "-m", STORY, "-t", 1, *generation(prompt, "--kv-store", store,
                   stats=tmp_path / "lost.json")]  # fmt: skip
        with subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
            while run.poll() is None and (not store.exists() or len(list(store.glob("*.kv"))) < n_pieces):
                time.sleep(0.0005)
            run.send_signal(signal.SIGKILL)
        whole = len(list(store.glob("*.kv")))
        assert whole >= n_pieces
        done = cli(*generation(prompt, "--kv-store", store, stats=stats))
        report = json.loads(stats.read_text())
        assert done.stdout == expected.stdout
        assert report["n_reused"] == min((whole + 1) * CHUNK, (report["n_prompt"] - 1) // CHUNK * CHUNK)
        assert report["store"]["damaged"] == 0
        assert not list(store.glob("*.tmp-*")), "what the killed one had begun is gone"


def test_what_cannot_be_stored_is_said_in_a_line_and_the_text_is_the_same(cli, prompt, tmp_path):
    stats = tmp_path / "stats.json"
    expected = cli(*generation(prompt, stats=stats)).stdout
    room = 30_000  # for the report, not for a chunk
    full = cli(*generation(prompt, "--kv-store", tmp_path / "full", stats=stats),
               preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)))  # fmt: skip
    assert full.returncode == 0 and full.stdout == expected
    warnings = [line for line in full.stderr.splitlines() if "warning" in line]
    assert len(warnings) == 1 and "not everything was stored: cannot write" in warnings[0]
    assert "File too large" in warnings[0] and list((tmp_path / "full").iterdir()) == []
    assert json.loads(stats.read_text())["store"]["failed"] == 1
    if os.geteuid() != 0:
        read_only = tmp_path / "read-only"
        read_only.mkdir(mode=0o500)
        kept = cli(*generation(prompt, "--kv-store", read_only, stats=stats))
        assert kept.returncode == 0 and kept.stdout == expected and "Permission denied" in kept.stderr
    missing = cli(*generation(prompt, "--kv-store", tmp_path / "no" / "such", stats=stats))
    assert missing.returncode == 1 and missing.stdout == ""
    assert missing.stderr.strip().endswith("no/such': No such file or directory")


def test_wrong_calls(cli, prompt, tmp_path):
    store = tmp_path / "store"
    for options, complaint in [
        (["--kv-store", store, "--kv", "f16", "-p", "x"], "livekv, kvstream and kivi caches only, not --kv f16"),
        (["--kv-store", store, "--kv-error", "-p", "x"], "--kv-store keeps no chunks whose error is measured"),
        (["--kv-store", store, "--kv-error", "--kv-load", store, "-p", "x"], "--kv-store keeps no chunks whose error"),
        (["--prefix-cache", "1M", "-cnv", "--kv-error"], "--prefix-cache keeps no chunks whose error is measured"),
        (["--prefix-cache", "1M", "-cnv", "--kv", "q8_0"], "livekv, kvstream and kivi caches only, not --kv q8_0"),
        (["--kv-store-list"], "--kv-store-list needs the folder"),
        (["--kv-store", store, "--kv-store-limit", "0", "-p", "x"], "--kv-store-limit 0 keeps nothing"),
        (["--kv-store-limit", "1G", "-p", "x"], "--kv-store-limit is of a folder; it needs --kv-store FOLDER"),
        (["--kv-store", store, "--kv-store-limit", "many", "-p", "x"], "is not a number of bytes"),
    ]:
        done = cli(*options)
        assert (done.returncode, done.stdout) == (2, "") and complaint in done.stderr
        assert done.stderr.count("\n") == 1 and not store.exists()
    listed = cli("--kv-store", store, "--kv-store-list")
    assert listed.returncode == 1 and "cannot read the folder" in listed.stderr and not store.exists()
    for cache in (["--kv", "f16"], ["--kv-error"]):
        usual = cli("-p", "Once", "-n", 2, *cache, environment={"LIVEKV_KV_STORE": str(store)})
        assert usual.returncode == 0 and not store.exists(), "the usual folder is for the caches that it can keep"
