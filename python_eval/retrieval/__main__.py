"""Retrieval accuracy of a model by length, depth and task, for several caches on the same samples.

    python -m python_eval.retrieval --model M.gguf --kv f16,livekv --lengths 1024,4096 --depths 0,0.5,1 --out DIR

An answer counts if greedy decoding gives exactly its tokens. The first cache of --kv is the one the others are compared
with. With --out, finished answers are kept and the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tqdm import tqdm

from ..arguments import named, numbers
from ..errors import EvalError, run_tool
from ..identity import file_identity, run_config
from ..model_file import require_model_file
from ..record_fields import FLAG, NULL, NUMBER, TEXT, WHOLE, Fields
from ..run_folder import Record, RunFolder
from ..tables import markdown, write_tables
from ..testbed import haystack
from ..testbed.tasks import FORMS
from . import report
from .samples import SHORTEST, Sample, make_samples, text_haystack

if TYPE_CHECKING:
    import livekv

FIELDS: Fields = {
    "kv": TEXT, "task": TEXT, "length": WHOLE, "sample": WHOLE, "context": WHOLE, "last": FLAG, "depth": NUMBER + NULL,
    "correct": FLAG,
}  # fmt: skip


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m python_eval.retrieval",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=named("--model"), required=True, help="GGUF file")
    parser.add_argument("--kv", default="f16", help="caches, comma separated: NAME[:flag=value]... (default: f16)")
    parser.add_argument("--lengths", default="512,1024,2048", help="context lengths in tokens (default: %(default)s)")
    parser.add_argument("--depths", default="0,0.25,0.5,0.75,1", help="where the answers lie (default: %(default)s)")
    parser.add_argument("--tasks", default="all", help=f"all, or some of {','.join(FORMS)}")
    parser.add_argument("--samples", type=int, default=4, help="samples a task, length and depth (default: 4)")
    parser.add_argument(
        "--haystack", type=named("--haystack"), help="text file that facts are hidden in (default: made-up prose)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--gpu-layers", type=int, default=0)
    parser.add_argument("--json", choices=["-"], help="print {kv: {length: {task: accuracy}}} in place of the tables")
    parser.add_argument("--out", type=named("--out"), help="folder for answers, tables and heat map")
    return parser.parse_args(arguments)


def chosen_tasks(text: str) -> list[str]:
    names = list(FORMS) if text == "all" else text.split(",")
    unknown = [name for name in names if name not in FORMS]
    if unknown:
        raise EvalError(f"--tasks: no task '{unknown[0]}', there are {', '.join(FORMS)}")
    return list(dict.fromkeys(names))


def answer(session: livekv.Session, sample: Sample) -> Iterator[Record]:
    """Reads the context once and asks each question of it, greedily; with policy finch, once for each question."""
    session.reset()
    condenses = session.kv.policy == "finch"
    if not condenses:
        session.prefill(sample.context)
    for number, asked in enumerate(sample.questions):
        last = number + 1 == len(sample.questions)
        if condenses:
            session.reset()
            session.prefill(sample.context, question=asked.prompt)
        generation = (session if last or condenses else session.fork()).generate(
            None if condenses else asked.prompt, max_tokens=len(asked.answer), temperature=0.0, add_special=False
        )
        for _ in generation:
            pass
        yield {"depth": asked.depth, "correct": list(generation.tokens) == asked.answer}


def run(args: argparse.Namespace) -> int:
    import livekv  # the tool's --help needs no engine

    if args.samples < 1:
        raise EvalError(f"--samples is {args.samples}, expected 1 or more")
    caches = livekv.parse_kv_list(args.kv)
    require_model_file(args.model)  # what is no file is said before it is loaded
    model = livekv.Model(args.model, n_gpu_layers=args.gpu_layers, n_threads=args.threads)
    lengths = [int(n) for n in numbers(args.lengths, "--lengths", int, SHORTEST, 1 << 20)]
    depths = numbers(args.depths, "--depths", float, 0.0, 1.0)
    tasks = chosen_tasks(args.tasks)

    known: dict[str, list[int]] = {}

    def encode(text: str) -> list[int]:
        if text not in known:
            known[text] = list(model.tokenize(text, add_special=False))
        return known[text]

    hay = haystack.made_up(encode)
    if args.haystack:
        hay = text_haystack(encode, [model.token_piece(token) for token in range(model.n_vocab)], args.haystack)
    bos = next(iter(model.tokenize_prompt("")), None)
    samples = list(make_samples(encode, bos, hay, tasks, lengths, depths, args.samples, args.seed))

    folder = None
    if args.out:
        specs = {label: kv.spec for label, kv in caches}
        config = run_config("benchmark", "retrieval", args.model, args.gpu_layers, caches=specs, lengths=lengths,
                            depths=depths, tasks=tasks, samples=args.samples, seed=args.seed,
                            haystack=args.haystack and file_identity(args.haystack))  # fmt: skip
        folder = RunFolder(args.out, config)
    labels = [label for label, _ in caches]

    def fault(record: Record) -> str | None:
        return foreign(record, labels, samples)

    records = finished(folder.records("answers", FIELDS, fault), samples) if folder else []
    done = {(record["kv"], record["context"]) for record in records}
    with tqdm(total=len(samples) * len(caches), unit="context", disable=None) as bar:
        for label, options in caches:
            session = model.session(n_ctx=max(lengths) + 64, kv=options, n_threads=args.threads)
            for at, sample in enumerate(samples):
                bar.update()
                if (label, at) in done:
                    continue
                for number, result in enumerate(answer(session, sample)):
                    record = {"kv": label, "task": sample.task, "length": sample.length, "sample": sample.index,
                              "context": at, "last": number + 1 == len(sample.questions), **result}  # fmt: skip
                    records.append(record)
                    if folder:
                        folder.append("answers", record)
    # As they would have been answered at once: the first cache is what the others are compared with.
    records.sort(key=lambda record: (labels.index(record["kv"]), record["context"]))
    show(records, args.json == "-", folder)
    return 0


def foreign(record: Record, labels: Sequence[str], samples: Sequence[Sample]) -> str | None:
    """What a record of FIELDS says that is not of this run; None for one of its own."""
    if record["kv"] not in labels:
        return f"this run has no cache {record['kv']}"
    if not 0 <= record["context"] < len(samples):
        return f"this run has no context {record['context']}"
    sample = samples[record["context"]]
    for name, value in (("task", sample.task), ("length", sample.length), ("sample", sample.index)):
        if record[name] != value:
            return f"'{name}' is {record[name]}, context {record['context']} of this run has {value}"
    if record["depth"] not in [asked.depth for asked in sample.questions]:
        return f"context {record['context']} of this run has no question at depth {record['depth']}"
    return None


def finished(records: list[Record], samples: Sequence[Sample]) -> list[Record]:
    """The records of finished contexts: of one that a kill ended and that was begun again, the last ones. A context
    whose last records are not of all its questions, in their order, is not finished."""
    by_context: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        by_context.setdefault((record["kv"], record["context"]), []).append(record)
    whole = []
    for (_, at), found in by_context.items():
        asked = samples[at].questions
        answers = found[-len(asked) :]
        if [one["depth"] for one in answers] == [one.depth for one in asked] and answers[-1]["last"]:
            whole += answers
    return whole


def show(records: list[Record], as_json: bool, folder: RunFolder | None) -> None:
    tables = {"accuracy": report.accuracy_rows(records), "differences": report.difference_rows(records),
              "depths": report.depth_rows(records)}  # fmt: skip
    if as_json:
        print(json.dumps(report.accuracy(records)))
    else:
        print("\n".join(markdown(rows) for rows in tables.values() if rows))
    if folder:
        folder.write_json("results.json", report.accuracy(records))
        for stem, rows in tables.items():
            if rows:
                write_tables(rows, folder.path, stem)
        try:
            report.heat_map(records, folder.path / "heatmap.png")
        except ImportError:
            print("note: no heat map, as matplotlib is not installed", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    return run_tool("retrieval", lambda: run(parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())
