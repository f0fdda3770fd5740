"""The converter as a program: exit codes, memory, and that no half-written file is ever left."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time

import pytest
import tiny_models
import tiny_tokenizers
from conftest import ROOT
from tiny_models import SHAPES, Shape

SCRIPT = ROOT / "convert" / "convert_hf.py"
# Six matrices of 33.5 MB in float32, which take a second or more to quantize.
LARGE = Shape("large", n_embd=512, n_ff=16384)
LARGEST_BYTES = 4 * LARGE.n_embd * LARGE.n_ff


def run(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return tiny_models.make(tmp_path_factory.mktemp("large") / "m", LARGE)


@pytest.fixture
def small(tmp_path):
    return tiny_models.make(tmp_path / "m", SHAPES["gqa_hd64"])


def test_success_is_one_line_and_no_leftovers(small, tmp_path):
    done = run(small, tmp_path / "out.gguf", "--type", "q8_0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1 and "21 tensors" in done.stdout and "q8_0" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "out.gguf"]


def test_names_that_are_not_utf8_convert(small, tmp_path):
    folder = tmp_path / os.fsdecode(b"m\xff")
    small.rename(folder)
    done = run(folder, tmp_path / os.fsdecode(b"out\xff.gguf"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "out\\udcff.gguf: 21 tensors" in done.stdout


def test_output_does_not_depend_on_the_run(small, tmp_path):
    run(small, tmp_path / "a.gguf")
    run(small, tmp_path / "b.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_nobody_who_hears_is_no_reason_to_fail(small, tmp_path):
    """stderr may be closed; the notes of this folder go nowhere then, and no file gets its number."""
    tiny_models.write_json(small / "config.json", tiny_models.config(SHAPES["gqa_hd64"]) | {"pad_token_id": 10**6})
    heard = run(small, tmp_path / "a.gguf")
    assert heard.returncode == 0 and "note: pad_token_id 1000000" in heard.stderr
    unheard = subprocess.run(
        [sys.executable, SCRIPT, small, tmp_path / "b.gguf"], stdout=subprocess.PIPE, preexec_fn=lambda: os.close(2)
    )
    assert unheard.returncode == 0 and unheard.stdout.count(b"\n") == 1
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


@pytest.mark.parametrize("arguments", [(), ("in",), ("in", "out", "--type", "q5_k"), ("in", "out", "more")])
def test_wrong_usage_exits_with_2(arguments):
    done = run(*arguments)
    assert done.returncode == 2 and "usage:" in done.stderr


def test_refusals_are_one_line_and_exit_with_1(small, tmp_path):
    config = (small / "config.json").read_text()
    (small / "config.json").write_text(config.replace("LlamaForCausalLM", "MambaForCausalLM"))
    done = run(small, tmp_path / "out.gguf")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("convert_hf: architecture MambaForCausalLM") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "out, message",
    [("nowhere/out.gguf", "its folder does not exist"), ("m", "it is a folder")],
)
def test_impossible_outputs_are_refused(small, tmp_path, out, message):
    done = run(small, tmp_path / out)
    assert done.returncode == 1 and message in done.stderr


@pytest.mark.parametrize("cut", [4, 400, -1])
def test_checkpoint_cut_short_is_refused_and_the_old_output_stays(small, tmp_path, cut):
    weights = small / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:cut])
    (tmp_path / "out.gguf").write_bytes(b"old")
    done = run(small, tmp_path / "out.gguf")
    assert done.returncode == 1 and "cut short" in done.stderr
    assert (tmp_path / "out.gguf").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "out.gguf"]


@pytest.mark.parametrize("room", [0, 100, 20_000, 300_000])
def test_a_full_disk_is_one_line_with_path_and_reason_and_leaves_nothing(small, tmp_path, room):
    # A limit on file sizes stands for the disk: writing fails at the same places, with another reason.
    (tmp_path / "out.gguf").write_bytes(b"old")
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room})); "
    start = f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import convert_hf; sys.exit(convert_hf.main())"
    command = [sys.executable, "-c", limit + start, small, tmp_path / "out.gguf", "--type", "f32"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == f"convert_hf: cannot write {tmp_path / 'out.gguf'}: File too large\n"
    assert (tmp_path / "out.gguf").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "out.gguf"]


def test_safetensors_need_no_torch(tmp_path):
    folder = tiny_models.make(tmp_path / "m", SHAPES["gqa_hd64"], dtype="bfloat16")
    blocked = "import sys; sys.modules['torch'] = sys.modules['transformers'] = None; "
    start = f"sys.path.insert(0, {str(SCRIPT.parent)!r}); import convert_hf; sys.exit(convert_hf.main())"
    command = [sys.executable, "-c", blocked + start, folder, tmp_path / "out.gguf"]
    subprocess.run(command, check=True)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "needs the package torch" in done.stderr


def peak_bytes(folder, out, type_name) -> int:
    """Peak resident memory of a conversion in a process of its own.

    Not by getrusage: its maximum outlives exec, so that a child of a large test process starts with its parent's.
    """
    measure = (
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import convert_hf; code = convert_hf.main(); "
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]); sys.exit(code)"
    )
    command = [sys.executable, "-c", measure, folder, out, "--type", type_name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) * 1024


@pytest.mark.uninstrumented
@pytest.mark.parametrize("type_name", ["f32", "f16", "bf16", "q8_0", "q4_0"])
def test_memory_stays_far_below_the_largest_tensor(large, tmp_path, type_name):
    small = tiny_models.make(tmp_path / "m", SHAPES["gqa_hd64"])
    baseline = peak_bytes(small, tmp_path / "small.gguf", type_name)
    peak = peak_bytes(large, tmp_path / "large.gguf", type_name)
    print(f"{(peak - baseline) / 1e6:.1f} MB beyond the baseline, the largest tensor has {LARGEST_BYTES / 1e6:.1f} MB")
    assert peak - baseline < LARGEST_BYTES // 2


@pytest.mark.uninstrumented
def test_memory_of_torch_checkpoints_stays_as_far_below(tmp_path):
    torch = pytest.importorskip("torch")
    folders = []
    for shape in (SHAPES["gqa_hd64"], LARGE):
        folders.append(tiny_models.make(tmp_path / shape.name, shape, {}))
        tensors = {name: torch.from_numpy(tensor) for name, tensor in tiny_models.weights(shape).items()}
        torch.save(tensors, folders[-1] / "pytorch_model.bin")
    baseline, peak = (peak_bytes(folder, tmp_path / "out.gguf", "q8_0") for folder in folders)
    print(f"{(peak - baseline) / 1e6:.1f} MB beyond the baseline, the largest tensor has {LARGEST_BYTES / 1e6:.1f} MB")
    assert peak - baseline < LARGEST_BYTES // 2


@pytest.mark.parametrize(
    "signal_, code, leftovers",
    [
        (signal.SIGINT, 130, []),
        (signal.SIGTERM, 143, []),
        (signal.SIGKILL, -9, ["out.gguf.tmp"]),  # nothing can tidy up after it but the next conversion
    ],
)
def test_killed_in_the_middle_there_is_no_output(large, tmp_path, tmp_path_factory, signal_, code, leftovers):
    process = subprocess.Popen(
        [sys.executable, SCRIPT, large, tmp_path / "out.gguf", "--type", "q4_0"],
        stderr=subprocess.PIPE,
        # A test run in the background ignores SIGINT, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 100_000 for path in tmp_path.iterdir()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal_)
    process.communicate(timeout=60)
    assert process.returncode == code
    assert [path.name.rsplit("-", 1)[0] for path in tmp_path.iterdir()] == leftovers
    small = tiny_models.make(tmp_path_factory.mktemp("small") / "m", SHAPES["gqa_hd64"])
    assert run(small, tmp_path / "out.gguf").returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]


LIMIT = 1_200_000 << 10  # bytes of address space: numpy loads, a text of 1.5 GB does not


@pytest.mark.uninstrumented
@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
@pytest.mark.parametrize("size", [1500 << 20, 250 << 20])
def test_files_far_larger_than_memory_are_one_line(small, tmp_path, name, size):
    os.truncate(small / name, size)
    command = [sys.executable, SCRIPT, small, tmp_path / "out.gguf"]
    limits = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **limits)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and done.stderr.startswith("convert_hf: "), done.stderr


@pytest.mark.uninstrumented
def test_memory_that_runs_out_is_one_line():
    code = "import sys, convert_error as c, numpy; sys.exit(c.run('tool', lambda: numpy.ones(1 << 50), tuple))"
    done = subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parent, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("tool: not enough memory: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json"])
def test_git_lfs_pointers_are_named(small, tmp_path, name):
    if name == "pytorch_model.bin":
        pytest.importorskip("torch")
        (small / "model.safetensors").unlink()
    (small / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    done = run(small, tmp_path / "out.gguf")
    assert done.returncode == 1 and f"{name} is a git-lfs pointer" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("merges", [None, []])
def test_a_byte_level_tokenizer_without_merges_is_refused(small, tmp_path, merges):
    tokenizer = tiny_tokenizers.byte_level()[0]
    tiny_models.write_json(small / "tokenizer.json", tokenizer | {"model": tokenizer["model"] | {"merges": merges}})
    done = run(small, tmp_path / "out.gguf")
    assert done.returncode == 1 and f"tokenizer.json: model.merges is {merges}, expected at least one" in done.stderr


@pytest.mark.parametrize("kind", ["LlamaTokenizer", "GemmaTokenizer", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize("merges", [None, [], [["\u2581", " "]]])
def test_a_sentencepiece_tokenizer_without_merges_is_refused(small, tmp_path, kind, merges):
    """transformers would leave all pieces apart; the scores, which are all that is left, would join them."""
    tokenizer, settings = tiny_tokenizers.spm_json()
    tokenizer["model"]["merges"] = merges
    tokenizer["model"]["vocab"] |= {" ": 3, "\u2581 ": 4} if merges else {}
    tiny_models.write_json(small / "tokenizer.json", tokenizer)
    tiny_models.write_json(small / "tokenizer_config.json", settings | {"tokenizer_class": kind})
    done = run(small, tmp_path / "out.gguf")
    assert done.returncode == 1 and "tokenizer.json: model.merges is " in done.stderr and done.stderr.count("\n") == 1
    assert "expected at least one merge" in done.stderr
