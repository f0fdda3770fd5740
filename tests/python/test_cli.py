"""livekv-cli as a user types it: what goes where, what a mistake looks like, and that none leaves a crash behind."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess

import convert_hf
import pytest
import tiny_models
from conftest import assert_refused
from tiny_models import SHAPES

GREEDY = ("--temp", "0", "-t", "2")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tiny_models.make(tmp_path_factory.mktemp("cli") / "tiny", SHAPES["gqa_hd64"])
    convert_hf.convert(folder, folder.with_suffix(".gguf"), "f16")
    return folder.with_suffix(".gguf")


@pytest.fixture
def cli(tools, model):
    def run(*arguments: object, stdin: bytes = b"", m=model, **options) -> subprocess.CompletedProcess:
        tool = tools.bin_dir / "livekv-cli"
        command = [tool, *(["-m", m] if m else []), *map(str, arguments)]
        return subprocess.run(command, input=stdin, capture_output=True, timeout=120, **options)

    return run


def test_only_the_text_goes_to_stdout_and_a_seed_repeats_it(cli):
    first = cli("-p", "a b c", "-n", 12, "-s", 5, "--temp", 1, "--ignore-eos")
    again = cli("-p", "a b c", "-n", 12, "-s", 5, "--temp", 1, "--ignore-eos")
    other = cli("-p", "a b c", "-n", 12, "-s", 6, "--temp", 1, "--ignore-eos")
    assert first.returncode == 0
    assert first.stdout == again.stdout and first.stdout != other.stdout
    assert b"tokens/s" in first.stderr and b"tokens/s" not in first.stdout
    first.stdout.decode("utf-8")  # whole characters only


def test_prompt_from_argument_file_and_stdin_are_the_same(cli, tmp_path):
    (tmp_path / "prompt.txt").write_text("hello there")
    outputs = {
        cli("-p", "hello there", "-n", 5, *GREEDY).stdout,
        cli("-f", tmp_path / "prompt.txt", "-n", 5, *GREEDY).stdout,
        cli("-n", 5, *GREEDY, stdin=b"hello there").stdout,
    }
    assert len(outputs) == 1


def test_stats_are_one_json_object_with_every_field(cli, tmp_path):
    path = tmp_path / "stats.json"
    done = cli("-p", "hello", "-n", 9, "--stats", path, "--kv", "q8_0", "--ignore-eos", *GREEDY)
    assert done.returncode == 0
    stats = json.loads(path.read_text())
    assert {"model", "options", "n_prompt", "n_generated", "ttft_s", "prefill_tps", "decode_tps", "kv_bytes",
            "kv_bits_per_value", "kv_f16_bytes", "peak_rss_bytes", "logits_hash"} <= stats.keys()  # fmt: skip
    assert stats["n_generated"] == 9 and stats["options"]["kv"] == "q8_0" and stats["model"]["n_head_kv"] == 2
    n_tokens = stats["n_prompt"] + 8  # the last token sampled is not in the cache
    values = 2 * 2 * 2 * 64 * n_tokens  # K and V, layers, kv heads, head_dim
    assert stats["kv_f16_bytes"] == 2 * values
    assert stats["kv_bits_per_value"] == pytest.approx(8 * stats["kv_bytes"] / values)
    assert stats["peak_rss_bytes"] > 1_000_000
    assert list(tmp_path.iterdir()) == [path]  # no temporary is left
    to_stdout = cli("-p", "hello", "-n", 9, "--stats", "-", "--kv", "q8_0", "--ignore-eos", *GREEDY).stdout.decode()
    printed = json.loads(to_stdout[to_stdout.index("\n{\n") :])
    assert printed["logits_hash"] == stats["logits_hash"]


def test_stats_say_where_the_cache_is_and_what_sealing_did(cli, tmp_path):
    path = tmp_path / "stats.json"
    text = "a long prompt, again and again. " * 15
    sealed = ("--chunk-size", 64, "--outlier-ratio", "0.005", "--kv-error")
    done = cli("-p", text, "-n", 9, *sealed, "--stats", path, "--ignore-eos", *GREEDY)
    assert done.returncode == 0
    stats = json.loads(path.read_text())
    kv = stats["kv"]
    parts = kv["bytes"]
    total = parts.pop("total")
    assert total == sum(parts.values()) == stats["kv_bytes"]
    assert set(parts) == {"codes", "scales", "outliers", "sinks", "warm_up", "bypass", "tail", "statistics", "padding"}
    assert parts["codes"] > parts["scales"] > 0 and parts["outliers"] > 0 and parts["sinks"] > 0 and parts["tail"] > 0
    assert kv["memory_savings"] == pytest.approx(1 - total / stats["kv_f16_bytes"])
    assert 0 < kv["outlier_fraction"] < 0.02 and 0 <= kv["saturated_fraction"] < 0.01
    assert 0 < kv["seal_time_share"] < 1
    for side in "kv":
        assert len(kv["snr_db"][side]) == stats["model"]["n_layer"]
        assert all(15 < snr < 40 for snr in kv["snr_db"][side])
    assert b"saved" in done.stderr and b"bits a value" in done.stderr


@pytest.mark.parametrize("arguments", [("--kv-bits", "6"), ("--kv-bits", "4,4,4"), ("--key-group", "100"), ("--preset", "best"),
                                       ("--clip-factor", "0.5"),
                                       ("--sink-tokens", "600"), ("--outlier-ratio", "0.2"), ("--rotate", "q")])  # fmt: skip
def test_impossible_cache_options_are_refused_in_one_line(cli, arguments):
    done = cli("-p", "x", *arguments)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and done.stdout == b""


@pytest.mark.parametrize("preset", ["default", "reference", "quality", "small"])
def test_presets_are_starting_points_for_other_options_wherever_they_stand(cli, tmp_path, preset):
    text = "a long prompt, again and again. " * 15
    bits = []
    for more in ((), ("--kv-bits", "8")):
        path = tmp_path / f"{len(more)}.json"
        assert cli("-p", text, "-n", 1, *more, "--chunk-size", 64, "--preset", preset, "--stats", path).returncode == 0
        bits.append(json.loads(path.read_text())["kv"]["bits_per_value"])
    assert bits[0] < bits[1]


def test_help_names_every_option_of_the_readme(cli):
    done = cli("--help", m=None)
    assert done.returncode == 0
    for name in ("-m", "-p", "-f", "-n", "-c", "-t", "-ngl", "--temp", "--top-k", "--top-p", "--min-p", "-s", "--kv",
                 "--repeat-penalty", "--chunk-size", "--stats", "--ignore-eos", "-cnv", "--tokenize", "--preset", "--kv-bits", "--kv-save", "--kv-load", "--kv-error"):  # fmt: skip
        assert name in done.stdout.decode()


@pytest.mark.parametrize(
    "arguments, part",
    [
        (["-n", "-5"], "--predict"),
        (["-c", "-1"], "--ctx-size"),
        (["-t", "0"], "--threads"),
        (["-t", "100000"], "--threads"),
        (["--temp", "-1"], "--temp"),
        (["--temp", "inf"], "--temp"),
        (["--chunk-size", "33"], "multiple of 32"),
        (["--kv", "q9"], "one of"),
        (["--no-such-option"], "unknown option"),
        (["-p"], "-p needs a value"),
    ],
)
def test_absurd_options_are_usage_errors(cli, arguments, part):
    done = cli(*arguments, stdin=b"hello")
    assert done.returncode == 2 and done.stdout == b"" and len(done.stderr.decode().splitlines()) == 1
    assert part in done.stderr.decode()


def test_no_model_is_a_usage_error(cli):
    assert_refused(cli("-p", "x", m=None), 2, "no model given")


def test_bad_prompts_are_refused(cli, tmp_path):
    assert_refused(cli(stdin=b""), 1, "the prompt is empty")
    assert_refused(cli("-p", "", stdin=b"not read"), 1, "the prompt is empty")
    assert_refused(cli(stdin=b"fine until \xff here"), 1, "not valid UTF-8 (byte 11)")
    assert_refused(cli("-f", tmp_path / "none.txt"), 1, "No such file")
    assert_refused(cli("-f", tmp_path), 1, f"cannot read '{tmp_path}': Is a directory")
    assert_refused(cli(stdin=b"word " * 3000), 1, "the model was trained on 512")
    assert_refused(cli("-c", 8, stdin=b"word " * 50), 1, "the context holds 8 tokens")


@pytest.mark.uninstrumented
def test_a_model_that_is_a_folder_or_larger_than_the_address_space_is_refused(cli, tmp_path):
    assert_refused(cli("-p", "x", m=tmp_path), 1, f"'{tmp_path}' is not a file but a folder")
    huge = tmp_path / "huge.gguf"
    with huge.open("wb") as file:
        file.truncate(16 << 30)  # a hole, not 16 GiB
    limit = (4 << 30, 4 << 30)
    done = cli("-p", "x", m=huge, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit))
    assert_refused(done, 1, f"cannot map '{huge}': Cannot allocate memory")


def test_unwritable_stats_are_refused_before_anything_runs(cli, tmp_path):
    done = cli("-p", "x", "--stats", tmp_path / "no" / "such" / "folder.json")
    assert_refused(done, 1, "cannot write")


def test_files_that_are_no_models_are_refused(cli, tmp_path, model):
    assert_refused(cli("-p", "x", m=tmp_path / "none.gguf"), 1, "No such file")
    (tmp_path / "empty.gguf").touch()
    assert_refused(cli("-p", "x", m=tmp_path / "empty.gguf"), 1, "is empty")
    (tmp_path / "text.gguf").write_text("this is no model")
    assert_refused(cli("-p", "x", m=tmp_path / "text.gguf"), 1, "not a GGUF file")
    whole = model.read_bytes()
    for n in (3, 20, 200, 5_000, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.gguf").write_bytes(whole[:n])
        assert_refused(cli("-p", "x", m=tmp_path / "cut.gguf"), 1, "cut.gguf")


@pytest.mark.uninstrumented
def test_too_little_memory_is_an_error_not_a_crash(cli):
    import resource

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    done = cli("-p", "x", "--kv", "f16", "-c", 50_000_000, "-t", 2, preexec_fn=limit)
    assert done.returncode == 1
    assert b"not enough memory" in done.stderr.splitlines()[-1]


def test_context_end_is_reported(cli):
    done = cli("-p", "hello", "-n", -1, "-c", 40, "--ignore-eos", *GREEDY)
    assert done.returncode == 0 and b"stopped: context_full" in done.stderr


def test_tokenize_works_on_vocabulary_only_files(cli, shared):
    done = cli("--tokenize", "-p", "Hello world", m=shared / "vocab" / "ggml-vocab-llama-spm.gguf")
    assert json.loads(done.stdout) == [1, 15043, 3186]
    nothing = cli("--tokenize", "-p", "", m=shared / "vocab" / "ggml-vocab-llama-spm.gguf")
    assert json.loads(nothing.stdout) == [1]
    assert_refused(cli("-p", "Hello", m=shared / "vocab" / "ggml-vocab-llama-spm.gguf"), 1, "a vocabulary-only file?")


@pytest.mark.parametrize("option", [("-n", 5), ("-c", 100), ("--kv-bits", 3), ("--temp", 0), ("--stats", "s.json"),
                                    ("--kv-store", "."), ("--keep", 4), ("--ignore-eos",), ("-ngl", 1)])  # fmt: skip
def test_what_tokenize_does_not_read_is_refused(cli, tmp_path, option):
    done = cli("--tokenize", "-p", "Hello", *option, cwd=tmp_path)
    assert_refused(done, 2, "has no effect with --tokenize")
    assert option[0].strip("-") in done.stderr.decode() or option[0] in ("-n", "-t", "-ngl")
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_is_no_model(cli, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    assert_refused(cli("-p", "Hello", m=tmp_path / "fifo"), 1, "fifo' is not a file")  # and nobody waits for a writer


def test_interrupt_ends_cleanly_with_timings(tools, model):
    command = [tools.bin_dir / "livekv-cli", "-m", model, "-p", "a", "-n", "-1", "-c", "2000000", "--ignore-eos", "-t", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(16)  # it is generating
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"stopped: interrupted" in err and b"tokens/s" in err


def test_an_interrupted_prompt_is_said_and_nothing_is_saved(tools, model, tmp_path):
    (tmp_path / "long.txt").write_text("word " * 400_000)
    saved = tmp_path / "g.kv"
    saved.write_bytes(b"what was there")
    command = [tools.bin_dir / "livekv-cli", "-m", model, "-f", tmp_path / "long.txt", "-n", "1", "-c", "4000000",
               "-t", "1", "--kv-save", saved, "--stats", tmp_path / "s.json"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert any(line.startswith(b"prefill:") for line in process.stderr)  # it is reading the prompt
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    told = re.fullmatch(r"livekv-cli: interrupted after (\d+) of the prompt's (\d+) tokens; nothing is saved",
                        err.decode().splitlines()[-1])  # fmt: skip
    assert told and 0 < int(told[1]) < int(told[2])
    assert json.loads((tmp_path / "s.json").read_text())["n_prompt"] == int(told[1])
    assert out == b"\n" and saved.read_bytes() == b"what was there"


def test_conversation_answers_each_line_and_keeps_the_context(cli, tmp_path, tools):
    folder = tiny_models.make(tmp_path / "chat", SHAPES["gqa_hd64"])
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    convert_hf.convert(folder, tmp_path / "chat.gguf", "f16")
    done = cli("-cnv", "-n", 6, "-s", 1, "--stats", tmp_path / "s.json", stdin=b"hello\n\nhow are you\n",
               m=tmp_path / "chat.gguf")  # fmt: skip
    assert done.returncode == 0, done.stderr
    stats = json.loads((tmp_path / "s.json").read_text())
    # Only what follows the first answer was prefilled: that answer's last token, if -n cut it off, and the new turn.
    new_turn = "<|im_end|>\n<|im_start|>user\nhow are you<|im_end|>\n<|im_start|>assistant\n"
    assert stats["n_prompt"] - len(tools.tokenize(tmp_path / "chat.gguf", new_turn)) in (0, 1)
    no_template = cli("-cnv", stdin=b"hello\n")
    assert no_template.returncode == 1 and len(no_template.stderr.decode().splitlines()) == 1


def test_progress_lines_are_plain_without_a_terminal_and_redrawn_on_one(cli, tools, model):
    done = cli("-p", "word " * 60, "-n", 1)
    assert b"\r" not in done.stderr
    master, slave = os.openpty()
    command = [tools.bin_dir / "livekv-cli", "-m", model, "-p", "word " * 60, "-n", "1"]
    shown = b""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=slave):
        os.close(slave)
        while True:
            try:
                shown += os.read(master, 4096)
            except OSError:  # the other end is closed
                break
    os.close(master)
    assert b"\rprefill [########################]" in shown


def test_two_files_of_a_run_are_two_files(cli, tmp_path):
    """--stats came last, so its text replaced the cache that --kv-load had read, or --kv-save written."""
    held, link = tmp_path / "held.kv", tmp_path / "link.kv"
    assert cli("-p", "hello", "-n", 1, "--kv-save", held, *GREEDY).returncode == 0
    link.symlink_to(held)
    saved = held.read_bytes()
    for stats in (held, link, tmp_path / "." / "held.kv"):
        done = cli("-n", 1, "--kv-load", held, "--stats", stats, *GREEDY)
        assert done.returncode == 2
        assert f"--stats would replace the cache of --kv-load, '{held}'" in done.stderr.decode()
        assert held.read_bytes() == saved
    new = tmp_path / "new.kv"
    done = cli("-p", "hello", "-n", 1, "--kv-save", new, "--stats", tmp_path / "." / "new.kv", *GREEDY)
    assert done.returncode == 2
    assert f"--stats would replace the cache of --kv-save, '{new}'" in done.stderr.decode()
    assert not new.exists()
    assert cli("-n", 1, "--kv-load", held, "--kv-save", held, "--stats", "-", *GREEDY).returncode == 0
