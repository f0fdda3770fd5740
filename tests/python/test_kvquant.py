"""--kv kvquant in the engine: what its cache holds, what it computes beside double precision, and what is refused."""

from __future__ import annotations

import json
import shutil
import struct

import kvquant_reference
import numpy as np
import pytest

from sequences import check_one_batch, go_on, kl, same_dumps

pytest.importorskip("tqdm", reason="requirements/eval.txt is not installed")

from python_eval import calibrate  # noqa: E402


@pytest.fixture(scope="module")
def files(story, opening, tmp_path_factory):
    """{bits: the calibration of the model}."""
    folder = tmp_path_factory.mktemp("calibrations")
    made = {}
    for bits in (2, 3, 4):
        made[bits] = folder / f"story.kvquant{bits}"
        options = ("--samples", 3, "--length", 200, "--threads", 1, "--bits", bits, "--out", made[bits])
        assert calibrate.main([str(one) for one in ("--model", story, "--text", opening, *options)]) == 0
    return made


@pytest.fixture
def kv(livekv, files):
    return livekv.KVOptions(policy="kvquant", calibration=str(files[4]), chunk_size=64)


def raw_of(livekv, model, n: int, chunk: int):
    return model.session(n, kv=livekv.KVOptions.parse(f"{calibrate.EXACT}:chunk-size={chunk}"))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_layer_0_holds_what_the_reference_says(livekv, model, tokens, files, kv, bits):
    """Layer 0's keys and values are the same whatever the cache: the raw ones go through the reference."""
    session = model.session(400, kv=kv.replace(calibration=str(files[bits]), kv_bits=bits))
    raw = raw_of(livekv, model, 400, 64)
    for one in (session, raw):
        one.prefill(tokens[:230])
    dump, exact = session.kv_dump(0), raw.kv_dump(0)
    of = livekv.kv.read_kvquant_calibration(files[bits]).layers[0]
    for side, book in (("k", of.k_codebook), ("v", of.v_codebook)):
        outliers = set()
        assert dump[f"{side}_bits"] == bits
        np.testing.assert_array_equal(dump[f"{side}_levels"], book.astype(np.float16).astype(np.float32))
        for first in range(0, 192, 64):
            rows = np.ascontiguousarray(exact[f"{side}_stored"][:, first : first + 64])
            n_exact = 1 if first == 0 else 0
            expected = (
                livekv.kv.kvquant_keys(rows, of.lower, of.upper, book, n_exact=n_exact)
                if side == "k"
                else livekv.kv.kvquant_values(rows, book, n_exact=n_exact)
            )
            stored = dump[f"{side}_stored"][:, first : first + 64]
            size = np.abs(expected.reconstruction).max()
            np.testing.assert_allclose(stored, expected.reconstruction, rtol=2e-3, atol=1e-3 * size)
            np.testing.assert_array_equal(dump[f"{side}_codes"][:, first : first + 64], expected.codes)
            apart = expected.outlier.copy()
            apart[:, :n_exact] = False
            np.testing.assert_array_equal(stored[apart], rows[apart])
            outliers |= {(h, first + t, c) for h, t, c in np.argwhere(apart).tolist()}
        assert {tuple(place) for place in dump[f"{side}_outlier_index"].tolist()} == outliers and outliers
        kinds = dump[f"{side}_kind"]
        assert kinds[0] == livekv.kv.SINK and (kinds[1:192] == livekv.kv.SEALED).all()
        assert (kinds[192:] == livekv.kv.TAIL).all()
        np.testing.assert_array_equal(dump[f"{side}_stored"][:, 192:], exact[f"{side}_stored"][:, 192:])
        np.testing.assert_array_equal(dump[f"{side}_stored"][:, 0], exact[f"{side}_stored"][:, 0])


@pytest.mark.parametrize("bits", [2, 4])
def test_it_computes_what_double_precision_does(livekv, story, tokens, files, kv, bits):
    model = livekv.Model(story, n_threads=1, dequantize=True)
    kv = kv.replace(calibration=str(files[bits]), kv_bits=bits)
    reference = kvquant_reference.Sequence(model, story, livekv.kv.read_kvquant_calibration(files[bits]), kv.chunk_size)
    expected = reference.read(tokens[:200])
    rows = {}
    for name, options in (("kvquant", kv), ("f16", livekv.KVOptions(policy="f16", chunk_size=64))):
        session = model.session(200, kv=options)
        rows[name] = np.concatenate([session.eval(tokens[:150], all_logits=True), go_on(session, tokens[150:200])])
    assert kl(rows["kvquant"][:64], expected[:64]) < 1e-6  # nothing is sealed yet
    lost = kl(rows["f16"][64:], expected[64:])
    assert kl(rows["kvquant"][64:], expected[64:]) < lost / 100  # a number on the edge may fall to either side


def test_it_costs_less_the_more_bits_it_has(livekv, model, tokens, files, kv):
    exact = model.session(400, kv=livekv.KVOptions(policy="f16"))
    exact.prefill(tokens[:200])
    reference = go_on(exact, tokens[200:300])
    lost, taken = [], []
    for bits in (4, 3, 2):
        session = model.session(400, kv=kv.replace(calibration=str(files[bits]), kv_bits=bits, chunk_size=96))
        session.prefill(tokens[:200])
        lost.append(kl(go_on(session, tokens[200:300]), reference))
        session.reset()
        session.prefill(tokens[:288])
        stats = session.kv_stats()
        # Beside codes, of a short chunk: thresholds and outliers of keys, a token's two numbers in every head.
        assert bits < stats.bits_per_value < bits + 2.2, stats
        assert 0.005 < stats.outlier_fraction < 0.03
        taken.append(stats.bits_per_value)
    assert lost[0] < lost[1] < lost[2] and lost[0] < 0.01, lost
    assert taken[0] > taken[1] + 0.9 > taken[2] + 1.8


def test_no_decompressed_copy_is_kept(model, tokens, kv):
    session = model.session(400, kv=kv.replace(chunk_size=32))
    session.prefill(tokens[:96])
    before = session.kv_stats().workspace_bytes
    session.prefill(tokens[96:288])
    a_copy = 192 * model.n_layer * model.n_head_kv * model.head_dim * 2 * 4
    assert session.kv_stats().workspace_bytes - before < a_copy / 4


def test_measured_noise_is_that_of_the_arrays(livekv, model, tokens, kv):
    session, raw = model.session(64, kv=kv.replace(measure_error=True)), raw_of(livekv, model, 64, 64)
    for one in (session, raw):
        one.prefill(tokens[:64])
    dump, exact, stats = session.kv_dump(0), raw.kv_dump(0), session.kv_stats()
    for side, snr in (("k", stats.snr_k[0]), ("v", stats.snr_v[0])):
        x = exact[f"{side}_stored"][:, 1:].astype(float)
        noise = ((x - dump[f"{side}_stored"][:, 1:]) ** 2).sum()
        assert 10 * np.log10((x**2).sum() / noise) == pytest.approx(snr, abs=0.01)


@pytest.mark.parametrize("n", [1, 3, 64, 65])
def test_short_prompts_work(model, tokens, kv, n):
    session = model.session(400, kv=kv)
    session.prefill(tokens[:n])
    assert np.isfinite(go_on(session, tokens[n : n + 70])).all()


def test_a_trimmed_session_goes_on_as_a_new_one(model, tokens, kv):
    session, fresh = (model.session(n_ctx=400, kv=kv) for _ in range(2))
    session.prefill(tokens[:230])
    session.trim(150)
    fresh.prefill(tokens[:150])
    same_dumps(model, fresh, session)
    np.testing.assert_array_equal(go_on(session, tokens[150:220]), go_on(fresh, tokens[150:220]))


def test_a_fork_goes_on_alike_whatever_becomes_of_the_file(livekv, model, tokens, files, tmp_path):
    path = tmp_path / "c"
    shutil.copy(files[4], path)
    session = model.session(400, kv=livekv.KVOptions(policy="kvquant", calibration=str(path), chunk_size=64))
    session.prefill(tokens[:100])
    path.unlink()
    other = session.fork()
    np.testing.assert_array_equal(go_on(other, tokens[100:200]), go_on(session, tokens[100:200]))
    same_dumps(model, session, other)


def test_the_oldest_tokens_may_leave(livekv, model, tokens, kv):
    """Keys turn while they are read, so a shift leaves blocks as they are."""
    session = model.session(256, kv=kv)
    before = "".join(session.generate(tokens[:200], max_tokens=120, temperature=0, ignore_eos=True, keep=4))
    assert before and session.n_tokens <= 256


def test_it_goes_in_one_batch_with_others(livekv, model, tokens, kv):
    check_one_batch(livekv, model, tokens, [kv.spec, "livekv:chunk-size=64", "f16"])


def cli(tools, story, *more):
    return tools.run("livekv-cli", "-m", story, "--kv", "kvquant", "--temp", "0", "-n", "4", *more, check=False)


def test_the_command_line_generates_with_it(tools, story, opening, files, tmp_path):
    path = tmp_path / "stats.json"
    done = cli(tools, story, "-f", opening, "-c", "2048", "--chunk-size", "64", "--calibration", files[3],
               "--kv-bits", "3", "--stats", path)  # fmt: skip
    assert done.returncode == 0 and done.stdout
    kept = json.loads(path.read_text())["kv"]
    assert 3 < kept["bits_per_value"] < 6 and kept["bytes"]["outliers"] > 0 and kept["outlier_fraction"] > 0


def test_a_calibration_is_refused_where_it_does_not_fit(livekv, tools, root, story, files, tmp_path):
    tiny = root / "tests" / "models" / "tiny.gguf"
    cut, damaged = tmp_path / "cut", tmp_path / "damaged"
    whole = files[4].read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    damaged.write_bytes(whole[:99] + bytes([whole[99] ^ 4]) + whole[100:])
    newer = tmp_path / "newer"
    newer.write_bytes(whole[:8] + struct.pack("<I", 2) + whole[12:])
    for model, flags, code, said in [
        (story, (), 2, "--calibration: the cache kvquant needs one, which python -m python_eval.calibrate makes"),
        (story, ("--calibration", files[3]), 2, f"--kv-bits: 4, but '{files[3]}' is a calibration for 3 bits"),
        (story, ("--calibration", files[4], "--kv-bits", "5"), 2, "--kv-bits: the cache kvquant has 2, 3 or 4 bits"),
        (story, ("--calibration", files[4], "--kv-bits", "4,3"), 2, "of keys and values alike"),
        (tiny, ("--calibration", files[4]), 1, f"'{files[4]}': a calibration of another model: its n_"),
        (story, ("--calibration", tmp_path / "none"), 1, "none': No such file"),
        (story, ("--calibration", story), 1, "not a calibration; python -m python_eval.calibrate makes one"),
        (story, ("--calibration", cut), 1, "cut': its checksum is wrong: the calibration was cut off, changed or damaged"),
        (story, ("--calibration", damaged), 1, "damaged': its checksum is wrong"),
        (story, ("--calibration", newer), 1, "newer': a calibration of file version 2, this livekv reads 1"),
    ]:
        done = cli(tools, model, "-p", "x", *flags)
        assert (done.returncode, done.stdout) == (code, "") and said in done.stderr, done.stderr
        assert done.stderr.startswith("livekv-cli: ") and done.stderr.count("\n") == 1


def test_what_it_has_not_is_refused_in_a_line(livekv, tools, model, story, files, kv, tokens, tmp_path):
    session = model.session(100, kv=kv)
    session.prefill(tokens[:40])
    assert not kv.can_be_stored
    for what, said in [
        (lambda: session.save(tmp_path / "x.kv"), "only livekv, kvstream, guided and kivi caches can be saved"),
        (lambda: livekv.kv.KeyStream(kv), "livekv.kv.kvquant_keys and kvquant_values have it"),
        (lambda: livekv.KVOptions(policy="kvquant"), "calibration: the cache kvquant needs one"),
        (lambda: livekv.KVOptions(policy="kvquant", calibration=7), "calibration: 7 is no name of a file"),
        (lambda: kv.replace(sink_tokens=2), "sink_tokens: the cache kvquant does not read it, livekv, kvstream, guided do"),
        (lambda: livekv.KVOptions(calibration="x"), "calibration: the cache livekv does not read it, kvquant does"),
    ]:  # fmt: skip
        with pytest.raises(livekv.Error) as refused:
            what()
        assert said in str(refused.value) and "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())
    for flags, said in [
        (("--kv-save", tmp_path / "x.kv"), "--kv-save writes livekv, kvstream, guided and kivi caches only"),
        (("--kv-store", tmp_path), "keeps livekv, kvstream and kivi caches only, not --kv kvquant"),
        (("--sink-tokens", "2"), "--sink-tokens is an option of --kv livekv, kvstream, guided, not of kvquant"),
    ]:
        done = cli(tools, story, "-p", "x", "--calibration", files[4], *flags)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_options_survive_their_spec(livekv, kv):
    assert livekv.KVOptions.parse(kv.spec) == kv
    assert kv.spec == f"kvquant:chunk-size=64:calibration={kv.calibration}"


def test_a_server_has_it(story, files, capsys, monkeypatch):
    uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed: requirements/serve.txt")
    pytest.importorskip("fastapi", reason="fastapi is not installed: requirements/serve.txt")
    from livekv.serve.__main__ import main

    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: sockets[0].close())
    kv = f"kvquant:calibration={files[4]}"
    assert main(["-m", str(story), "-c", "256", "--kv", kv, "--port", "0"]) == 0
    assert f"--kv {kv}: every prompt is read from its beginning" in capsys.readouterr().err
