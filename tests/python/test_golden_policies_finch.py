"""The scalar reference of policy finch against the golden vectors of golden_policies, from C++ and from Python."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest
from test_golden_policies import cases, load

HEADER = ("target_tokens", "normalize", "n_context", "n_question", "chunk_size", "n_head", "n_head_kv", "head_dim",
          "rope_base")  # fmt: skip


def f32(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x, np.float32)


def chunks(golden: dict, config: dict) -> list[tuple[np.ndarray, ...]]:
    """Of each chunk the question's queries and keys, and its own keys and values."""
    of_chunks = []
    for i, first in enumerate(range(0, config["n_context"], config["chunk_size"])):
        here = slice(first, first + config["chunk_size"])
        rows = (golden[f"s{i}_q_pre_rope"], golden[f"s{i}_k_question_pre_rope"], golden["k_pre_rope"][:, here],
                golden["v"][:, here])  # fmt: skip
        of_chunks.append(tuple(map(f32, rows)))
    assert f"s{len(of_chunks)}_score" not in golden
    return of_chunks


def compare(made: list[dict], k_final: np.ndarray, v_final: np.ndarray, golden: dict) -> None:
    for i, step in enumerate(made):
        for name in ("columns", "kept_columns", "kept_tokens"):
            np.testing.assert_array_equal(step[name], golden[f"s{i}_{name}"])
        expected = golden[f"s{i}_score"]
        np.testing.assert_allclose(step["score"], expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_allclose(k_final, golden["k_final"], rtol=0, atol=1e-6 * np.abs(golden["k_final"]).max())
    np.testing.assert_array_equal(v_final, f32(golden["v_final"]))


@pytest.mark.parametrize("case", cases("finch"))
def test_finch_reference_reproduces_the_golden_vectors(tools, case):
    golden, config = load(case)
    header = {name: config[name] for name in HEADER}
    stdin = json.dumps(header).encode() + b"\n" + b"".join(x.tobytes() for c in chunks(golden, config) for x in c)
    done = subprocess.run([tools.bin_dir / "livekv-finch"], input=stdin, capture_output=True, check=True)
    made = json.loads(done.stdout)
    assert made["factor"] == config["compression_factor"]
    shape = (config["n_head_kv"], config["n_kept"], config["head_dim"])
    compare(made["steps"], np.reshape(made["k_final"], shape), np.reshape(made["v_final"], shape), golden)


@pytest.mark.parametrize("case", cases("finch"))
def test_finch_layer_over_arrays_reproduces_the_golden_vectors(livekv, case):
    golden, config = load(case)
    layer = livekv.kv.FinchLayer(
        config["n_context"], config["n_question"], target_tokens=config["target_tokens"],
        normalize=config["normalize"], rope_base=config["rope_base"])  # fmt: skip
    assert layer.factor == config["compression_factor"]
    made = [vars(layer.add(*chunk)) for chunk in chunks(golden, config)]
    compare(made, layer.keys(), layer.values(), golden)


def random_rows(n: int, n_question: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(n)
    shapes = ((4, n_question, 16), (2, n_question, 16), (2, n, 16), (2, n, 16))
    return tuple(rng.standard_normal(shape).astype(np.float32) for shape in shapes)


@pytest.mark.parametrize(("n", "n_question"), [(1, 1), (1, 4), (3, 1), (20, 6)])
def test_a_context_below_the_target_is_kept_whole(livekv, n, n_question):
    rows = random_rows(n, n_question)
    layer = livekv.kv.FinchLayer(n, n_question, target_tokens=n + n_question)
    assert layer.factor == 1
    chosen = layer.add(*rows)
    assert chosen.kept_tokens.tolist() == list(range(n))
    np.testing.assert_array_equal(layer.values(), rows[3])
    np.testing.assert_allclose(layer.keys()[:, 0], rows[2][:, 0], rtol=1e-6)  # position 0 turns nothing


@pytest.mark.parametrize("normalize", [False, True])
def test_of_equal_scores_lower_columns_are_kept(livekv, normalize):
    q, k_question, k, v = (np.zeros_like(x) for x in random_rows(30, 4))
    layer = livekv.kv.FinchLayer(60, 4, target_tokens=19, normalize=normalize)
    first = layer.add(q, k_question, k, v)
    assert layer.factor == 4 and first.kept_tokens.tolist() == list(range(7))
    expected = 4 / 34 if normalize else sum(1 / (30 + p + 1) for p in range(4))  # every token sees p + 31 keys
    np.testing.assert_allclose(first.score, np.full(30, 4 * expected), rtol=1e-6)  # 4 query heads
    second = layer.add(q, k_question, k, v)
    assert second.columns.tolist() == [*range(7), *range(30, 60)]
    assert second.kept_tokens.tolist() == [*range(7), *range(30, 37)]


def test_a_question_token_gives_nothing_to_those_behind_it(livekv):
    """The question's last key draws all: were it seen by the tokens before it, the columns would have nothing of
    these either."""
    q, k_question, k, v = (np.zeros_like(x) for x in random_rows(8, 4))
    q[:] = 1.0
    k_question[:, 3] = 100.0
    layer = livekv.kv.FinchLayer(8, 4, target_tokens=8, normalize=False, rope_base=1e30)  # turns the first pair alone
    q[..., :2] = k_question[..., :2] = 0.0
    chosen = layer.add(q, k_question, k, v)
    np.testing.assert_allclose(chosen.score, np.full(8, 4 * (1 / 9 + 1 / 10 + 1 / 11)), rtol=1e-5)


def test_pairs_are_as_the_order_says(livekv):
    rows = random_rows(2, 1)
    half = np.concatenate([np.arange(0, 16, 2), np.arange(1, 16, 2)])  # neighbours to halves
    both = [livekv.kv.FinchLayer(2, 1, target_tokens=3, rope_order=order) for order in ("normal", "neox")]
    both[0].add(*rows)
    both[1].add(*(np.ascontiguousarray(x[..., half]) for x in rows))
    np.testing.assert_array_equal(both[0].keys()[..., half], both[1].keys())


@pytest.mark.parametrize(("fields", "said"), [
    ({"target_tokens": 4}, "target_tokens: 4 leave no room beside a question of 4 tokens"),
    ({"n_question": 0}, "a context of 20 tokens and a question of 0: each has one at least"),
    ({"rope_base": 1.0}, "rope_base: 1 is not above 1"),
    ({"rope_order": "pairs"}, "rope_order: there is no 'pairs'"),
])  # fmt: skip
def test_what_is_no_layer_is_refused(livekv, fields, said):
    with pytest.raises(livekv.Error) as refused:
        livekv.kv.FinchLayer(**{"n_context": 20, "n_question": 4} | fields)
    assert str(refused.value) == said


def test_chunks_fit_to_the_question_and_the_context(livekv):
    q, k_question, k, v = random_rows(20, 4)
    layer = livekv.kv.FinchLayer(30, 4)
    assert layer.keys().size == 0
    with pytest.raises(livekv.Error, match="q and k_question are of 3 and 4 tokens, the question has 4"):
        layer.add(np.ascontiguousarray(q[:, :3]), k_question, k, v)
    with pytest.raises(livekv.Error, match="share one even number of channels"):
        layer.add(q, k_question, k, np.ascontiguousarray(v[:, :19]))
    with pytest.raises(livekv.Error, match="is not a finite number"):
        layer.add(q, k_question, np.full_like(k, np.inf), v)
    layer.add(q, k_question, k, v)
    with pytest.raises(livekv.Error, match="the context has 30 tokens, 40 are too many"):
        layer.add(q, k_question, k, v)
