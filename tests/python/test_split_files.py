"""A model in several files is the model in one, whichever part is named; parts that do not belong together are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import split_gguf

N_TOKENS = 200


@pytest.fixture(scope="module")
def whole(root) -> Path:
    return root / "tests" / "models" / "tiny.gguf"


@pytest.fixture(scope="module")
def parts(whole, tmp_path_factory) -> list[Path]:
    return split_gguf.split(whole, tmp_path_factory.mktemp("parts") / "tiny", 3)


def logits(livekv, path: Path, tokens: list[int]) -> np.ndarray:
    return livekv.Model(path, n_threads=1).session(n_ctx=512).eval(tokens, True)


@pytest.mark.parametrize("named", [0, 1, 2])
def test_any_part_names_the_model(livekv, whole, parts, opening, named):
    model = livekv.Model(whole, n_threads=1)
    tokens = model.tokenize(opening.read_text())[:N_TOKENS]
    np.testing.assert_array_equal(logits(livekv, parts[named], tokens), logits(livekv, whole, tokens))
    split = livekv.Model(parts[named], n_threads=1)
    assert (split.n_params, split.weight_bytes) == (model.n_params, model.weight_bytes)


@pytest.mark.parametrize("options", [{"first_is_empty": True}, {"all_metadata": True}])
def test_parts_as_other_tools_write_them(livekv, whole, tmp_path, opening, options):
    made = split_gguf.split(whole, tmp_path / "other", 3, **options)
    tokens = livekv.Model(whole, n_threads=1).tokenize(opening.read_text())[:N_TOKENS]
    np.testing.assert_array_equal(logits(livekv, made[2], tokens), logits(livekv, whole, tokens))


def test_a_part_alone_that_says_so_is_a_file(livekv, whole, tmp_path):
    for count in (0, 1):  # merging tools write 0
        made = split_gguf.split(
            whole,
            tmp_path / f"merged-{count}",
            1,
            keys=lambda no, n, n_tensors, count=count: [split_gguf.key("split.count", split_gguf.UINT16, count)],
        )
        renamed = made[0].rename(tmp_path / f"merged-{count}.gguf")
        assert livekv.Model(renamed, n_threads=1).n_params == livekv.Model(whole, n_threads=1).n_params


def test_a_cache_saved_with_parts_goes_on_with_the_whole(livekv, whole, parts, tmp_path, opening):
    model = livekv.Model(parts[1], n_threads=1)
    session = model.session(n_ctx=512)
    tokens = model.tokenize(opening.read_text())[:N_TOKENS]
    session.eval(tokens)
    session.save(tmp_path / "parts.kv")
    loaded = livekv.Model(whole, n_threads=1).session(n_ctx=512)
    loaded.load(tmp_path / "parts.kv")
    assert list(loaded.tokens) == tokens


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_missing_part_is_named(tools, parts, tmp_path, missing):
    for path in parts:
        shutil.copy(path, tmp_path)
    gone = tmp_path / parts[missing - 1].name
    gone.unlink()
    named = tmp_path / parts[missing % 3].name
    done = tools.run("livekv-cli", "-m", named, "-p", "a", "-n", "1", check=False)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert f"part {missing} of 3" in done.stderr and str(gone) in done.stderr


def keys_but(**changed):
    """What a part says of itself, with other values; None: nothing."""

    def keys(no: int, n_parts: int, n_tensors: int) -> list[bytes]:
        said = {"no": no - 1, "count": n_parts, "tensors": n_tensors}
        said |= {name: value(no) if callable(value) else value for name, value in changed.items()}
        names = {"no": "split.no", "count": "split.count", "tensors": "split.tensors.count"}
        return [
            split_gguf.key(names[name], split_gguf.INT32, value) for name, value in said.items() if value is not None
        ]

    return keys


@pytest.mark.parametrize(
    "changed, part",
    [
        ({"count": 4}, "split.count is 4, its name says 3"),
        ({"count": lambda no: 3 if no == 1 else 2}, "split.count is 2, its name says 3"),
        ({"count": lambda no: 3 if no == 1 else None}, "split.count is missing, its name says 3"),
        ({"count": -1}, "split.count' is -1, out of range"),
        ({"no": 1}, "split.no is 1, by its name it is 0"),
        ({"no": lambda no: 0}, "split.no is 0, by its name it is 1"),
        ({"no": None}, "split.no is missing, by its name it is 0"),
        ({"tensors": 57}, "split.tensors.count is 57, the 3 parts have 56 tensors"),
        ({"tensors": lambda no: 56 if no < 3 else 0}, "split.tensors.count is 0, the 3 parts have 56 tensors"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(livekv, whole, tmp_path, changed, part):
    made = split_gguf.split(whole, tmp_path / "bad", 3, keys=keys_but(**changed))
    with pytest.raises(livekv.Error) as refused:
        livekv.Model(made[0])
    assert part in str(refused.value) and "\n" not in str(refused.value)


def refused_with(livekv, path: Path, part: str) -> None:
    with pytest.raises(livekv.Error) as refused:
        livekv.Model(path)
    assert part in str(refused.value) and "\n" not in str(refused.value)


def test_what_else_is_no_model_in_parts(livekv, root, whole, parts, tmp_path):
    for path in parts:
        shutil.copy(path, tmp_path)
    names = [tmp_path / path.name for path in parts]
    alone = shutil.copy(parts[1], tmp_path / "two.gguf")
    refused_with(
        livekv, alone, "is part 2 of 3 of a model, and the others are found by names that end in -00002-of-00003.gguf"
    )
    refused_with(livekv, shutil.copy(parts[0], tmp_path / "tiny-00000-of-00003.gguf"), "its name says part 0 of 3")
    refused_with(livekv, shutil.copy(parts[0], tmp_path / "tiny-00004-of-00003.gguf"), "its name says part 4 of 3")
    names[2].write_bytes(parts[2].read_bytes()[:-5000])  # cut off
    refused_with(livekv, names[0], "part 3 of 3 of the model")
    shutil.copy(parts[2], names[2])
    other = split_gguf.split(root / "tests" / "models" / "story.gguf", tmp_path / "story", 3, all_metadata=True)
    shutil.copy(other[1], names[1])  # a part of another model, and its metadata with it
    refused_with(livekv, names[0], "is not what the first part says")
    two = split_gguf.split(whole, tmp_path / "twice", 2)
    again = split_gguf.split(whole, tmp_path / "twice", 2, first_is_empty=True)
    assert two == again  # the second now holds every tensor, the first none
    first = split_gguf.split(whole, tmp_path / "first", 2)[0]
    shutil.copy(first, two[0])
    refused_with(livekv, two[0], "an earlier part has tensor")


def test_what_a_part_holds_is_used_or_refused(livekv, whole, tmp_path):
    for where in (1, 3):
        made = split_gguf.split(whole, tmp_path / f"tensor-{where}", 3, extra_tensor_in=where)
        refused_with(livekv, made[0], "1 tensor has no place in this model and may change what it computes: 'anything'")

    def keys(no: int, n_parts: int, n_tensors: int) -> list[bytes]:
        more = [split_gguf.key("llama.rope.scaling.alpha", split_gguf.INT32, 5)] if no == where else []
        return split_gguf.split_keys(no, n_parts, n_tensors) + more

    for where, part in ((1, "key 'llama.rope.scaling.alpha' is 5"), (3, "is not what the first part says")):
        made = split_gguf.split(whole, tmp_path / f"key-{where}", 3, keys=keys)
        refused_with(livekv, made[1], part)


def test_tools_take_a_part(tools, parts, opening, tmp_path):
    text = tmp_path / "text"
    text.write_text(opening.read_text()[:3000])
    assert tools.tokenize(parts[2], "a text") == tools.tokenize(parts[0], "a text") != []
    assert "tokens in" in tools.run("livekv-perplexity", "-m", parts[1], "-f", text, "-c", 128, "--windows", 1).stdout
    assert "prefill" in tools.run("livekv-bench", "-m", parts[1], "-d", 0, "--kv", "f16", "-r", 1, "-t", 1).stdout
