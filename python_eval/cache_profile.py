"""What caches hold while a prompt is read: their growth by part, the signal to noise of layers, and what keys and
values look like.

python -m python_eval.cache_profile --model M --data FILE --kv f16,livekv,... [--n-ctx 2048] [--layers 0,5]

The first window of the text is read through each cache, a few tokens at a time. `python_eval.report` draws what is
recorded:

    growth.jsonl          a record a cache: bytes by part after every step, signal to noise by layer (dB)
    distributions.jsonl   a record a layer of the first livekv cache; its arrays lie beside
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import livekv

from . import measuring
from .arguments import positive
from .distributions import layer_distributions
from .errors import EvalError, run_tool
from .identity import require_same_calibrations
from .record_fields import LIST, NULL, NUMBER, OBJECT, TEXT, WHOLE, Fields
from .run_folder import Record, RunFolder
from .specs import canonical
from .tables import Row, markdown, write_tables
from .windows import write_arrays

COMMAND = "cache_profile"
GROWTH: Fields = {
    "label": TEXT, "spec": TEXT, "n_tokens": LIST, "bytes": OBJECT, "snr_k": LIST + NULL, "snr_v": LIST + NULL,
    "bits_per_value": NUMBER, "outlier_fraction": NUMBER + NULL, "saturated_fraction": NUMBER + NULL,
}  # fmt: skip
LAYERS: Fields = {"label": TEXT, "spec": TEXT, "layer": WHOLE, "rotation": OBJECT, "arrays": TEXT}
NOTE = (
    "SNR: signal to noise of sealed keys and values, dB, mean over layers. Saturated: share of sealed values beyond "
    "the range their codes cover.",
)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m python_eval.cache_profile", description="What caches hold")
    measuring.add_options(parser, windows=1)
    parser.add_argument("--kv", default="f16,livekv", metavar="LIST", help="caches, comma separated (%(default)s)")
    parser.add_argument(
        "--step", type=positive, default=32, metavar="N", help="tokens between two looks (%(default)s)"
    )
    parser.add_argument(
        "--layers", metavar="LIST", help="whose keys and values are looked at (default: first and last)"
    )
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> int:
    """Reads the window through every cache that the folder lacks, writes and prints the table."""
    if options.windows != 1 or len(options.data) != 1:
        raise EvalError("one window of one text is profiled: --windows 1 and one file")
    caches = measuring.kv_caches(options.kv)
    measuring.require_outputs(options, caches.values())
    model = measuring.open_model(options)
    layers = _layers(options.layers, model.n_layer)
    (window,) = measuring.windows_of(model, options)
    config = measuring.config_of(COMMAND, options, [window], canonical(options.base))
    config |= {"step": options.step, "f16_bytes_per_token": 4 * model.n_layer * model.n_head_kv * model.head_dim}
    tokens = list(window.tokens)
    with RunFolder(measuring.folder_of(COMMAND, options, config), config) as folder:
        require_same_calibrations(folder, caches)
        there = {record["label"]: record for record in folder.records("growth", GROWTH)}
        for label, spec in caches.items():
            if there.get(label, {"spec": spec})["spec"] != spec:
                raise EvalError(
                    f"{folder.path}: there {label} is {there[label]['spec']}, now {spec}; name another folder"
                )
            if label not in there:
                folder.append("growth", {"label": label, "spec": spec, **_growth(model, spec, tokens, options)})
        first = next((label for label, spec in caches.items() if livekv.KVOptions.parse(spec).policy == "livekv"), None)
        if first is not None:
            _look_inside(folder, model, first, caches[first], canonical(options.base), tokens, layers)
        return _write(folder, options.json)


def _layers(text: str | None, n_layer: int) -> list[int]:
    if text is None:
        return sorted({0, n_layer - 1})
    try:
        layers = [int(part) for part in text.split(",")]
    except ValueError:
        raise EvalError(f"--layers '{text}' is not a list of numbers") from None
    if not all(0 <= layer < n_layer for layer in layers):
        raise EvalError(f"--layers '{text}': the model has layers 0 to {n_layer - 1}")
    return layers


def _growth(model: livekv.Model, spec: str, tokens: Sequence[int], options: argparse.Namespace) -> Record:
    kv = livekv.KVOptions.parse(spec)
    if kv.policy == "livekv":
        # Without seal_decode every step would be taken for a prompt's end and sealed by itself; of a prompt read whole,
        # the option changes nothing but its last, open chunk.
        kv = kv.replace(measure_error=True, seal_decode=True)
    session = model.session(n_ctx=len(tokens), kv=kv, n_threads=measuring.threads(options))
    read: list[int] = []
    parts: dict[str, list[int]] = {}
    with measuring.progress_bar(spec.partition(":")[0], "token") as progress:
        for start in range(0, len(tokens), options.step):
            session.prefill(tokens[start : start + options.step])
            stats = session.kv_stats()
            read.append(stats.n_tokens)
            for part, n_bytes in dataclasses.asdict(stats.bytes).items():
                parts.setdefault(part, []).append(n_bytes)
            progress(stats.n_tokens, len(tokens))
    return {
        "n_tokens": read,
        "bytes": parts,
        "bits_per_value": stats.bits_per_value,
        "outlier_fraction": stats.outlier_fraction,
        "saturated_fraction": stats.saturated_fraction,
        "snr_k": stats.snr_k,
        "snr_v": stats.snr_v,
    }


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _look_inside(
    folder: RunFolder,
    model: livekv.Model,
    label: str,
    spec: str,
    base: str,
    tokens: Sequence[int],
    layers: Sequence[int],
) -> None:
    """Distributions of the layers that the folder lacks: what the base cache keeps, and which of it `spec` set
    apart.
    """
    done = {(record["label"], record["layer"]) for record in folder.records("distributions", LAYERS)}
    missing = [layer for layer in layers if (label, layer) not in done]
    if not missing:
        return
    sessions = [model.session(n_ctx=len(tokens), kv=livekv.KVOptions.parse(one)) for one in (base, spec)]
    for session in sessions:
        session.prefill(list(tokens))
    for layer in missing:
        exact, sealed = (session.kv_dump(layer) for session in sessions)
        if not (sealed["k_group"] >= 0).any():
            continue  # a bypass layer, or a prompt shorter than a chunk: nothing was sealed
        arrays: dict[str, NDArray[Any]] = {}
        for side in "kv":
            arrays |= {f"{side}_{name}": one for name, one in layer_distributions(exact, sealed, side).items()}
        name = f"arrays/layer{layer:03d}-{''.join(c if c.isalnum() else '-' for c in label)[:60]}.npz"
        write_arrays(folder.path / name, arrays)
        rotated = {side: int(sealed[f"{side}_rotation"]) for side in "kv"}
        folder.append(
            "distributions", {"label": label, "spec": spec, "layer": layer, "rotation": rotated, "arrays": name}
        )


def _write(folder: RunFolder, json_to: str | None) -> int:
    rows: list[Row] = []
    for record in folder.records("growth", GROWTH):
        snr = {side: [x for x in record[f"snr_{side}"] or [] if x is not None] for side in "kv"}
        rows.append(
            {
                "cache": record["label"],
                "bits a value": record["bits_per_value"],
                "cache, MiB": record["bytes"]["total"][-1] / 2**20,
                "outliers, %": _percent(record["outlier_fraction"]),
                "saturated, %": _percent(record["saturated_fraction"]),
                "keys SNR, dB": float(np.mean(snr["k"])) if snr["k"] else None,
                "values SNR, dB": float(np.mean(snr["v"])) if snr["v"] else None,
            }
        )
    write_tables(rows, folder.path, "caches", NOTE)
    measuring.print_result(markdown(rows, NOTE), folder.read_json("caches.json"), json_to)
    print(f"{folder.path}: growth.jsonl, distributions.jsonl; python -m python_eval.report draws them", file=sys.stderr)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    return run_tool(COMMAND, lambda: run(parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())
