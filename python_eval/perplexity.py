"""Perplexity and KL divergence of cache types, paired.

python -m python_eval.perplexity --model M --data wikitext|FILE ... --kv f16,livekv,... [--n-ctx 2048] [--windows N]

Every window is fed through each cache with live compression on, as a prompt would be, and its second half is scored:
the numbers of livekv-perplexity. Every position's are kept in the run folder, and a killed run goes on there; so does a
later one with more caches. There too: the divergence by position, and with --by-layer what each layer alone costs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import livekv

from . import measuring
from .divergence import all_differences, by_position, difference, summary
from .errors import EvalError, run_tool
from .identity import require_same_calibrations
from .paired import mean_se
from .run_folder import RunFolder
from .specs import canonical, spec_of
from .tables import Row, markdown, write_tables
from .windows import FIELDS, RECORDS, Measured, load, measure

COMMAND = "perplexity"
NOTES = (
    "KLD: Kullback-Leibler divergence in nats of the next-token distribution from the base cache's, mean over scored "
    "tokens. Differences are paired on the same tokens; standard errors are over windows, since tokens of a window are "
    "not independent.",
)


LAYER_NOTES = ("KLD: mean divergence in nats with one layer's cache compressed and all others exact.",)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m python_eval.perplexity", description="Perplexity and KL divergence"
    )
    measuring.add_options(parser)
    parser.add_argument("--kv", default="f16,livekv", metavar="LIST", help="caches, comma separated (%(default)s)")
    parser.add_argument(
        "--against", metavar="CACHE", help="differences in the table are from this one (default: the first)"
    )
    parser.add_argument(
        "--by-layer",
        action="store_true",
        help="measure every compressing cache in one layer alone as well, layer after layer, the others exact",
    )
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> int:
    """Measures what is missing, writes the tables, prints the summary."""
    caches = measuring.kv_caches(options.kv)
    base = canonical(options.base)
    if base not in caches.values():
        caches = {options.base: base, **caches}
    compressed = [label for label, spec in caches.items() if spec != base]
    against = options.against or (compressed or list(caches))[0]
    if against not in caches:
        raise EvalError(f"--against {against} is none of the caches: {', '.join(caches)}")
    measuring.require_outputs(options, caches.values())
    model = measuring.open_model(options)
    layers = _of_one_layer(caches, model.n_layer) if options.by_layer else {}
    windows = measuring.windows_of(model, options)
    config = measuring.config_of(COMMAND, options, windows, base)
    with RunFolder(measuring.folder_of(COMMAND, options, config), config) as folder:
        require_same_calibrations(folder, caches)
        folder.write_json("caches.json", _with_earlier(folder, caches))
        with measuring.progress_bar(COMMAND) as progress:
            measure(
                folder,
                measuring.worker_of(options, base),
                [*caches.values(), *layers],
                windows,
                n_workers=options.workers,
                ray_address=options.ray,
                progress=progress,
            )
        measured = load(folder.path, folder.records(RECORDS, FIELDS))
        if layers:
            rows = [
                {"text": text, "cache": label, "layer": layer, **_of_layer(measured[spec].of_text(text))}
                for text in dict.fromkeys(window.text for window in windows)
                for spec, (label, layer) in layers.items()
            ]
            write_tables(rows, folder.path, "layers", LAYER_NOTES)
        return _write(folder, {label: measured[spec] for label, spec in caches.items()}, against, options.json)


def _of_one_layer(caches: dict[str, str], n_layer: int) -> dict[str, tuple[str, int]]:
    """{spec: (label, layer)}: the compressing ones of the caches, {label: spec}, in each layer alone."""
    of_layer: dict[str, tuple[str, int]] = {}
    for label, spec in caches.items():
        kv = livekv.KVOptions.parse(spec)
        if kv.policy == "livekv":
            for layer in range(n_layer):
                of_layer.setdefault(spec_of(kv.replace(only_layer=layer)), (label, layer))
    if not of_layer:
        raise EvalError("--by-layer: none of the caches compresses layers one by one; livekv does")
    return of_layer


def _of_layer(measured: Measured) -> Row:
    kl = mean_se(measured.kl, measured.clusters)
    return {"KLD": kl.mean, "± SE": kl.se}


def _with_earlier(folder: RunFolder, caches: dict[str, str]) -> dict[str, str]:
    """The caches an earlier run measured in this folder, then these."""
    path = folder.path / "caches.json"
    earlier: dict[str, str] = folder.read_json("caches.json") if path.exists() else {}
    for label, spec in caches.items():
        if earlier.setdefault(label, spec) != spec:
            raise EvalError(f"{path}: there {label} is {earlier[label]}, now {spec}; name another folder")
    return earlier


def _write(folder: RunFolder, caches: dict[str, Measured], against: str, json_to: str | None) -> int:
    rows: list[Row] = []
    pairs: list[Row] = []
    positions: list[Row] = []
    texts = list(dict.fromkeys(text for text, _ in next(iter(caches.values())).keys))
    for text in texts:
        of_text = {label: one.of_text(text) for label, one in caches.items()}
        rows += [{"text": text, **summary(label, one)} for label, one in of_text.items()]
        pairs += [{"text": text, **row} for row in all_differences(of_text)]
        for label, one in of_text.items():
            if one.same_top is not None:
                positions += [{"text": text, **row} for row in by_position(label, one, folder.config["n_ctx"])]
    unread = measuring.unread_notes({label: one.spec for label, one in caches.items()}, folder.config["n_ctx"])
    notes = (*NOTES, f"Differences are from {against}.", *unread)
    write_tables(rows, folder.path, "perplexity", (*NOTES, *unread))
    write_tables(pairs, folder.path, "differences", (*NOTES, *unread))
    write_tables(positions, folder.path, "positions", NOTES)
    content: dict[str, Any] = {
        "config": folder.config,
        "caches": rows,
        "differences": [{key: getattr(cell, "__dict__", cell) for key, cell in row.items()} for row in pairs],
    }
    table = markdown(
        [_short(text, label, one, caches[against]) for text in texts for label, one in caches.items()], notes
    )
    measuring.print_result(table, content, json_to)
    print(f"{folder.path}: perplexity.md, differences.md, positions.md, arrays", file=sys.stderr)
    return 0


def _short(text: str, label: str, measured: Measured, against: Measured) -> Row:
    """A line of the printed table."""
    one, other = measured.of_text(text), against.of_text(text)
    line = summary(label, one)
    row: dict[str, Any] = {"text": text, "cache": label, "bits": line["bits_per_value"], "perplexity": line["ppl"]}
    row |= {"KLD": line["kl_mean"], "± SE": line["kl_se"], "99.9 %": line["kl_p999"]}
    row |= {"same top, %": None if one.same_top is None else round(100 * float(one.same_top.mean()), 2)}
    if one.spec != other.spec:
        pair = difference(one, other)
        row |= {"KLD difference": pair["kl_diff"], "NLL difference": pair["nll_diff"]}
    else:
        row |= {"KLD difference": None, "NLL difference": None}
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    return run_tool(COMMAND, lambda: run(parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())
