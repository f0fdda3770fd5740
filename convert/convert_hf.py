#!/usr/bin/env python3
"""Convert a Hugging Face folder to GGUF.

    python convert/convert_hf.py HF_DIR OUT.gguf --type q8_0

The weights stream through a few rows at a time, and OUT.gguf appears only when it is complete.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
from tqdm import tqdm

from convert_error import ConvertError, named, run_tool
from families import FAMILIES
from folder_files import has_file
from hf_checkpoint import open_checkpoint, read_json, refuse_pointer
from hf_config import Hparams, read_hparams
from hf_rope import Rope
from hf_tokenizer import read_vocab
from hf_vocab import Vocab
from tensor_plan import TYPES, TensorStream, plan_tensors
from whole_file import refuse_input, whole_output

SECONDS_BETWEEN_LINES = 5.0


def convert(hf_dir: Path, out: Path, type_name: str) -> str:
    """Writes `out` and gives a one-line summary; throws ConvertError or OSError, and then leaves no file behind."""
    if not has_file(hf_dir / "config.json"):
        raise ConvertError(f"{hf_dir} holds no config.json: it is no Hugging Face model folder")
    if out.is_dir() or not out.parent.is_dir():
        raise ConvertError(f"cannot write {out}: {'it is a folder' if out.is_dir() else 'its folder does not exist'}")
    if not _is_gguf(out):  # which was made of some folder, and is nothing that is read
        refuse_input(out, hf_dir.rglob("*"))
    if has_file(hf_dir / "tokenizer.model"):
        refuse_pointer(hf_dir / "tokenizer.model")
    config = read_json(hf_dir / "config.json")
    hparams = read_hparams(config)
    vocab = read_vocab(hf_dir, config, hparams.n_vocab)
    tensors, found = open_checkpoint(hf_dir)
    plan, notes = plan_tensors(tensors, hparams, type_name)
    for note in found + hparams.notes + vocab.notes + notes:
        print(f"note: {' '.join(note.split())}", file=sys.stderr)  # names from a checkpoint may hold anything
    with whole_output(out) as temporary:
        write_gguf(temporary, printable(hf_dir.resolve().name), type_name, hparams, vocab, plan)
    n_parameters = sum(tensor.source.n_rows * tensor.source.n_cols for tensor in plan)
    sizes = f"{len(plan)} tensors, {n_parameters / 1e6:.1f} M parameters, {type_name}"
    return f"{printable(str(out))}: {sizes}, {out.stat().st_size / 1e6:.1f} MB"


def _is_gguf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def printable(name: str) -> str:
    """A file's name need not be UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def write_gguf(path: Path, name: str, type_name: str, hparams: Hparams, vocab: Vocab, plan: list[TensorStream]) -> None:
    writer = gguf.GGUFWriter(path, hparams.family.gguf, use_temp_file=False)
    try:
        writer.add_type("model")
        writer.add_name(name)
        writer.add_file_type(TYPES[type_name][1])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        add_hparams(writer, hparams)
        vocab.write(writer)
        for tensor in plan:
            shape = tensor.source.shape
            writer.add_tensor_info(tensor.name, shape, None, tensor.nbytes, raw_dtype=tensor.type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        with progress(sum(tensor.nbytes for tensor in plan)) as advance:
            for tensor in plan:
                tensor.written = advance
                writer.write_tensor_data(tensor)
        writer.flush()
    finally:
        writer.close()


def add_hparams(writer: gguf.GGUFWriter, hparams: Hparams) -> None:
    writer.add_vocab_size(hparams.n_vocab)
    writer.add_context_length(hparams.n_ctx)
    writer.add_embedding_length(hparams.n_embd)
    writer.add_block_count(hparams.n_layer)
    writer.add_feed_forward_length(hparams.n_ff)
    writer.add_head_count(hparams.n_head)
    writer.add_head_count_kv(hparams.n_head_kv)
    writer.add_key_length(hparams.head_dim)
    writer.add_value_length(hparams.head_dim)
    writer.add_layer_norm_rms_eps(hparams.rms_eps)
    writer.add_rope_dimension_count(hparams.rope.n_rot)
    if hparams.attention_scale is not None:
        writer.add_attention_scale(hparams.attention_scale)
    if hparams.window is not None:
        add_windows(writer, hparams.window, hparams.window_layers)
    add_rope(writer, hparams.rope)


def add_windows(writer: gguf.GGUFWriter, window: int, layers: list[bool]) -> None:
    writer.add_sliding_window(window)
    if not layers:  # all of them
        return
    each = layers.index(False) + 1 if False in layers else len(layers) + 1
    regular = [(il + 1) % each != 0 for il in range(len(layers))]
    writer.add_sliding_window_pattern(each if layers == regular else layers)


def add_rope(writer: gguf.GGUFWriter, rope: Rope) -> None:
    writer.add_rope_freq_base(rope.theta)
    if rope.theta_window is not None:
        writer.add_rope_freq_base_swa(rope.theta_window)
    if rope.linear_factor is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope.linear_factor)
    if rope.long is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
        writer.add_rope_scaling_orig_ctx_len(rope.long.n_ctx_orig)
        writer.add_rope_scaling_attn_factors(rope.long.attn_factor)
    if rope.yarn is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope.yarn.factor)
        writer.add_rope_scaling_orig_ctx_len(rope.yarn.n_ctx_orig)
        writer.add_rope_scaling_attn_factors(rope.yarn.attn_factor)
        writer.add_rope_scaling_yarn_beta_fast(rope.yarn.beta_fast)
        writer.add_rope_scaling_yarn_beta_slow(rope.yarn.beta_slow)


@contextmanager
def progress(total_bytes: int) -> Iterator:
    """Gives a function to call with the bytes just written: a bar on a terminal, now and then a line elsewhere."""
    if sys.stderr.isatty():
        with tqdm(total=total_bytes, unit="B", unit_scale=True, desc="writing") as bar:
            yield bar.update
        return
    done, last_line = 0, time.monotonic()

    def advance(n_bytes: int) -> None:
        nonlocal done, last_line
        done += n_bytes
        if time.monotonic() - last_line >= SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            print(f"writing: {100 * done // total_bytes} % of {total_bytes / 1e6:.1f} MB", file=sys.stderr, flush=True)

    yield advance


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="convert_hf.py",
        description="Convert a Hugging Face folder to GGUF; .bin weights need torch. Models: "
        + ", ".join(FAMILIES)
        + ".",
        epilog="Norms stay f32. With q8_0 and q4_0, matrices whose rows are no multiple of 32 long become f16. "
        "With q4_0, the token embedding and the output matrix become q8_0: errors there reach every token.",
    )
    parser.add_argument(
        "hf_dir", type=named("HF_DIR"), metavar="HF_DIR", help="folder with config.json, weights and tokenizer"
    )
    parser.add_argument(
        "out", type=named("OUT.gguf"), metavar="OUT.gguf", help="file to write; replaced only by a complete one"
    )
    types = list(TYPES)
    parser.add_argument("--type", choices=types, default="f16", help="type of the matrices (default: %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    def body() -> str:
        options = parse_arguments(arguments)
        return convert(options.hf_dir, options.out, options.type)

    return run_tool("convert_hf", body)


if __name__ == "__main__":
    sys.exit(main())
