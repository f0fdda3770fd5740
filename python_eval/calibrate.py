"""Calibrate KVQuant for a model: what --kv kvquant reads.

python -m python_eval.calibrate --model M --text F --bits 4 [--samples 16] [--length 2048] [--out FILE]

Samples of the text, spread evenly over it, are read with an exact cache, which hands out its keys before RoPE and its
values. Of a layer's keys each channel gets two thresholds, the 0.5 % and 99.5 % quantiles of its numbers, and all that
lies within, normalized, one codebook by k-means; values, whose thresholds are each token's own, get another one. First
tokens of samples do not count: a cache keeps its first token exactly. Without --out the file lies beside the model.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import livekv

from .arguments import named, output, positive
from .errors import EvalError, run_tool
from .files import refuse_input
from .measuring import progress_bar
from .model_file import parts_of, require_model_file
from .texts import read_text

COMMAND = "calibrate"
# Rows of 16 bits, keys before RoPE, which a dump hands out as they are.
EXACT = "kvstream:key-bits-normal=16:value-bits-normal=16:key-bits-sink-outlier=16:value-bits-sink-outlier=16"


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m python_eval.calibrate", description="Calibrate --kv kvquant")
    parser.add_argument("--model", type=named("--model"), required=True, metavar="GGUF")
    parser.add_argument("--text", type=named("--text"), required=True, metavar="FILE", help="UTF-8 text to read")
    parser.add_argument("--bits", type=int, choices=(2, 3, 4), default=4, help="of a code (%(default)s)")
    parser.add_argument("--samples", type=positive, default=16, metavar="N", help="stretches of it (%(default)s)")
    parser.add_argument("--length", type=positive, default=2048, metavar="N", help="tokens of each (%(default)s)")
    parser.add_argument("--out", type=output("--out"), metavar="FILE", help="default: beside the model, .kvquantBITS")
    parser.add_argument("--threads", type=positive, metavar="N", help="default: the machine's cores")
    return parser.parse_args(arguments)


def cut_samples(model: livekv.Model, text: str, n_samples: int, length: int) -> list[list[int]]:
    """Stretches of `length` tokens with even gaps between them, each behind the model's bos where it has one; EvalError
    where the text is too short for so many that do not overlap."""
    tokens = model.tokenize(text, add_special=False)
    bos = [model.bos_token] if model.adds_bos else []
    own = length - len(bos)
    if own < 2:
        raise EvalError(f"--length {length} leaves nothing behind the first token")
    if len(tokens) < n_samples * own:
        raise EvalError(f"the text has {len(tokens)} tokens, {n_samples} samples of {length} need {n_samples * own}")
    starts = [(len(tokens) - own) * i // max(1, n_samples - 1) for i in range(n_samples)]
    return [bos + tokens[start : start + own] for start in starts]


class Rows:
    """Keys before RoPE, or values, of one layer over all samples, in a file: f16 [n, H, D], as caches have them."""

    def __init__(self, path: Path, x: NDArray[np.float32]) -> None:
        self._path = path
        self._shape = (-1, x.shape[0], x.shape[2])

    def add(self, x: NDArray[np.float32]) -> None:
        """x: [H, n, D]; its first token is left out."""
        with self._path.open("ab") as file:
            file.write(x[:, 1:].transpose(1, 0, 2).astype(np.float16).tobytes())

    def heads(self) -> NDArray[np.float32]:
        """[H, n, D]."""
        rows = np.fromfile(self._path, np.float16).reshape(self._shape)
        return np.ascontiguousarray(rows.transpose(1, 0, 2), np.float32)


def calibrated_layer(k: NDArray[np.float32], v: NDArray[np.float32], bits: int) -> livekv.kv.KVQuantLayer:
    """What a layer's keys before RoPE and its values, [H, n, D] each, say."""
    kv = livekv.kv
    lower, upper = kv.kvquant_key_ranges(k)
    k_codebook = kv.kvquant_codebook(kv.kvquant_normalized(k, lower, upper), bits)
    v_codebook = kv.kvquant_codebook(kv.kvquant_normalized(v, *kv.kvquant_value_ranges(v)), bits)
    return kv.KVQuantLayer(lower, upper, k_codebook, v_codebook)


def calibrate(
    model: livekv.Model, samples: Sequence[Sequence[int]], bits: int, scratch: Path
) -> list[livekv.kv.KVQuantLayer]:
    """A calibration's layers from samples of one length. scratch: a folder for the samples' keys and values."""
    rows: list[tuple[Rows, Rows]] = []
    with progress_bar("reading", "sample") as show:
        for i, sample in enumerate(samples):
            show(i, len(samples))
            session = model.session(len(sample), kv=livekv.KVOptions.parse(EXACT))
            session.prefill(list(sample))
            for layer in range(model.n_layer):
                dump = session.kv_dump(layer)
                k, v = dump["k_stored"], dump["v_stored"]
                if i == 0:
                    rows.append((Rows(scratch / f"k{layer}", k), Rows(scratch / f"v{layer}", v)))
                rows[layer][0].add(k)
                rows[layer][1].add(v)
        show(len(samples), len(samples))
    layers = []
    with progress_bar("calibrating", "layer") as show:
        for layer, (keys, values) in enumerate(rows):
            show(layer, len(rows))
            layers.append(calibrated_layer(keys.heads(), values.heads(), bits))
        show(len(rows), len(rows))
    return layers


def run(options: argparse.Namespace) -> int:
    """Reads, calibrates, writes."""
    require_model_file(options.model)
    out = Path(options.out or options.model.with_suffix(f".kvquant{options.bits}"))
    refuse_input(out, [*parts_of(options.model), options.text])
    text = read_text(options.text)
    model = livekv.Model(options.model, n_threads=options.threads)
    samples = cut_samples(model, text, options.samples, options.length)
    try:
        with tempfile.TemporaryDirectory(prefix="livekv-calibrate-") as folder:
            layers = calibrate(model, samples, options.bits, Path(folder))
    except OSError as problem:
        raise EvalError(f"{tempfile.gettempdir()}: no room for the samples' keys: {problem.strerror}") from None
    livekv.kv.write_kvquant_calibration(out, model, layers, bits=options.bits)
    n = options.samples * (options.length - 1)
    print(f"{out}: {options.bits} bits, {model.n_layer} layers, of {n} tokens of {options.text.name}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command, without what -m adds."""
    return run_tool(COMMAND, lambda: run(parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())
