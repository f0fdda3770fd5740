"""Tool calls by cache, context length and depth: is the right function called, with the right arguments?

    python -m python_eval.tools --model M.gguf --kv f16,q4_0_rot,livekv --lengths 2048,4096,8192 --out DIR

A context holds functions to choose from and notes; a request names a person, about whom the notes say what the call's
arguments are, far back. The answer is greedy, and right if it is that call in JSON: function, names, values and types.
The first cache of --kv is the one the others are compared with. With --out, finished contexts are kept and the same
command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tqdm import tqdm

from ..arguments import named, numbers, positive
from ..errors import EvalError, run_tool
from ..identity import run_config
from ..model_file import model_facts, require_model_file, size_warning
from ..record_fields import FLAG, LIST, NUMBER, TEXT, WHOLE, Fields, fault_of_all
from ..run_folder import Record, RunFolder
from ..tables import markdown, write_tables
from . import report
from .functions import FUNCTIONS
from .samples import ENDING, MAX_ANSWER, OPENING, SHORTEST, Context, make_contexts
from .score import score

if TYPE_CHECKING:
    import livekv

FIELDS: Fields = {"kv": TEXT, "length": WHOLE, "context": WHOLE, "answers": LIST}
ANSWER: Fields = {"depth": NUMBER, "call": FLAG, "function": FLAG, "arguments": NUMBER}


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m python_eval.tools", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=named("--model"), required=True, help="GGUF file of a model with a chat template"
    )
    parser.add_argument("--kv", default="f16,livekv", help="caches, comma separated (default: %(default)s)")
    parser.add_argument("--lengths", default="2048", help="in tokens, answer included (default: %(default)s)")
    parser.add_argument("--depths", default="0,0.25,0.5,0.75,1", help="where the facts lie (default: %(default)s)")
    parser.add_argument("--contexts", type=positive, default=12, help="of each length; a request for each depth (12)")
    parser.add_argument("--functions", type=positive, default=8, help=f"on offer, up to {len(FUNCTIONS)} (8)")
    parser.add_argument("--others", type=int, default=5, help="facts about people that nobody asks about (5)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=positive, default=8, help="answers that advance together (8)")
    parser.add_argument("--threads", type=positive, help="default: all cores")
    parser.add_argument("--gpu-layers", type=int, default=0)
    parser.add_argument("--json", choices=["-"], help="print {kv: {length: share of right calls}} instead")
    parser.add_argument("--out", type=named("--out"), help="folder for answers and tables")
    return parser.parse_args(arguments)


def answers(
    model: livekv.Model, engine: livekv.Engine, context: Context, kv: livekv.KVOptions, batch: int, threads: int | None
) -> list[Record]:
    """Reads the context once; then its requests, each in a fork, advance together."""
    session = model.session(n_ctx=context.length, kv=kv, n_threads=threads)
    session.prefill(context.tokens)
    opening = list(model.tokenize(OPENING, add_special=False))
    texts = [
        session.fork().generate(
            request.prompt + opening,
            max_tokens=MAX_ANSWER - len(opening),
            temperature=0.0,
            stop=ENDING,
            add_special=False,
        )
        for request in context.requests
    ]
    for _ in engine.generate_batch(texts, batch):
        pass
    records: list[Record] = []
    for request, text in zip(context.requests, texts, strict=True):
        ended = ENDING if text.usage.finish_reason == "stop" else ""
        answer = OPENING + text.text + ended
        result = score(answer, request.function, request.arguments)
        records.append({"depth": request.depth, "answer": answer, "expected": {"name": request.function,
                        "arguments": request.arguments}, **vars(result)})  # fmt: skip
    return records


def run(args: argparse.Namespace) -> int:
    import livekv  # the tool's --help needs no engine

    if args.functions > len(FUNCTIONS):
        raise EvalError(f"--functions is {args.functions}, there are {len(FUNCTIONS)}")
    if args.others < 0:
        raise EvalError(f"--others is {args.others}, expected 0 or more")
    caches = livekv.parse_kv_list(args.kv)
    require_model_file(args.model)  # what is no file is said before it is loaded
    model = livekv.Model(args.model, n_gpu_layers=args.gpu_layers, n_threads=args.threads)
    lengths = [int(n) for n in numbers(args.lengths, "--lengths", int, SHORTEST, 1 << 20)]
    depths = numbers(args.depths, "--depths", float, 0.0, 1.0)

    def render(system: str, user: str) -> list[int]:
        turns = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        return list(model.apply_chat_template(turns, tokenize=True))

    contexts = list(make_contexts(render, lengths, depths, args.contexts, args.functions, args.others, args.seed))
    folder = None
    if args.out:
        specs = {label: kv.spec for label, kv in caches}
        config = run_config("benchmark", "tools", args.model, args.gpu_layers, caches=specs, lengths=lengths,
                            depths=depths, contexts=args.contexts, functions=args.functions, others=args.others,
                            seed=args.seed)  # fmt: skip
        folder = RunFolder(args.out, config)
    # A record is a context with all its answers: one that was interrupted leaves nothing.
    wanted = {(label, one.length, one.index): one for label, _ in caches for one in contexts}

    def fault(record: Record) -> str | None:
        context = wanted.get((record["kv"], record["length"], record["context"]))
        if context is None:
            return f"this run has no context {record['context']} of {record['length']} tokens for {record['kv']}"
        wrong = fault_of_all(record["answers"], ANSWER)
        depths = [request.depth for request in context.requests]
        if not wrong and [one["depth"] for one in record["answers"]] != depths:
            return f"the answers are not of the depths {depths}"
        return wrong

    found = folder.records("answers", FIELDS, fault) if folder else []
    done = {(one["kv"], one["length"], one["context"]): one for one in found}
    engine = livekv.Engine(model, args.threads)
    with tqdm(total=len(contexts) * len(caches), unit="context", disable=None) as bar:
        for context in contexts:  # the caches take turns, so that a run that was stopped compares them
            for label, kv in caches:
                key = (label, context.length, context.index)
                if key not in done:
                    given = answers(model, engine, context, kv, args.batch, args.threads)
                    done[key] = {"kv": label, "length": context.length, "context": context.index, "answers": given}
                    if folder:
                        folder.append("answers", done[key])
                bar.update()
    show([done[key] for key in wanted], args.json == "-", folder, size_warning(model_facts(model)["n_params"]))
    return 0


def show(finished: Sequence[Record], as_json: bool, folder: RunFolder | None, notes: Sequence[str]) -> None:
    records = [{"kv": one["kv"], "length": one["length"], "context": one["context"], **answer}
               for one in finished for answer in one["answers"]]  # fmt: skip
    tables = {"calls": report.rate_rows(records), "depths": report.depth_rows(records)}
    shares: dict[str, dict[str, object]] = {}
    for row in tables["calls"]:
        shares.setdefault(str(row["cache"]), {})[str(row["length"])] = row["call"]
    print(json.dumps(shares) if as_json else "\n".join(markdown(rows, notes) for rows in tables.values()))
    if folder:
        for stem, rows in tables.items():
            write_tables(rows, folder.path, stem, notes)


def main(arguments: list[str] | None = None) -> int:
    return run_tool("tools", lambda: run(parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())
