#!/usr/bin/env python3
"""Two servers under the same load, started and ended in turns: livekv.serve, and another with OpenAI's /v1/completions.

    PYTHONPATH=build/python python tests/bench/serve_pair.py --model MODEL.gguf --text FILE --clients 1,4,16 --prompts 4000 \\
        --requests 32 --rounds 3 --other "llama-server -m {model} --port {port} -np 16 -c 73728 -t 2"

llama-cpp-python's own server has no slots and ends an answer when another request comes, unless it is told not to:
"python -m llama_cpp.server --model {model} --port {port} --interrupt_requests false --n_ctx 8192 --n_threads 2".

{model} and {port} are filled in; a server is ready when /v1/models answers. --livekv: more options of ours. --other may be given
several times. The table is serve_load.py's, with the server in front and its processor time behind; the ratio of generated tokens a
second, livekv's to each other one's, is of each round, with its median; so is that of tokens a second of processor time, which other
work on the machine moves less.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from serve_load import HEAD, add_load, load, row

HEAD_HERE = [line + end for line, end in zip(HEAD.splitlines(), (" CPU s |", "---:|"), strict=True)]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(f"{url}/v1/models", timeout=5).status == 200
    except (urllib.error.URLError, OSError):
        return False


@contextlib.contextmanager
def serving(command: list[str], url: str, log: Path) -> Iterator[int]:
    """Its process, once it answers."""
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            while not answers(url):
                if process.poll() is not None:
                    raise SystemExit(f"{shlex.join(command)} ended: {log.read_text()[-500:]}")
                time.sleep(0.2)
            yield process.pid
        finally:
            process.terminate()
            process.wait(60)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--other", action="append", default=[], metavar="COMMAND")
    parser.add_argument("--livekv", default="", metavar="OPTIONS", help="such as '--parallel 16 --memory 2G'")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--logs", type=Path, default=Path("."), help="folder for what the servers say")
    add_load(parser)
    args = parser.parse_args()
    text = args.text.read_text(encoding="utf-8")
    ours = f"{shlex.quote(sys.executable)} -m livekv.serve -m {{model}} --port {{port}} {args.livekv}"
    commands = {"livekv": ours} | {f"other{i or ''}": command for i, command in enumerate(args.other)}
    rates: dict[tuple[str, int, str], list[float]] = {}
    n_lost = 0
    print("\n".join(f"| {what} {line}" for what, line in zip(("server", "---"), HEAD_HERE, strict=True)))
    first_seed = args.seed
    for a_round in range(args.rounds):
        for name, command in commands.items():
            port = free_port()
            args.url = f"http://127.0.0.1:{port}"
            words = [word.format(model=args.model, port=port) for word in shlex.split(command)]
            with serving(words, args.url, args.logs / f"{name}.log") as pid:
                for n in map(int, args.clients.split(",")):
                    args.seed = first_seed + 1000 * a_round + n  # texts that neither has read
                    before = cpu_seconds(pid)
                    seen, seconds = load(args, text, n)
                    used = max(cpu_seconds(pid) - before, 0.01)
                    rates.setdefault((name, n, "second"), []).append(seen.n_generated / seconds)
                    rates.setdefault((name, n, "second of processor time"), []).append(seen.n_generated / used)
                    n_lost += sum(seen.lost.values())
                    print(f"| {name} {row(n, seen, seconds, pid)} {used:.0f} |", flush=True)
                    for what, count in seen.lost.items():
                        print(f"  {name} lost {count}: {what}", file=sys.stderr)
    for name, n, what in rates:
        if name != "livekv":
            ratios = [a / b for a, b in zip(rates["livekv", n, what], rates[name, n, what], strict=True) if b > 0]
            if ratios:
                print(f"{n} clients: livekv generates {statistics.median(ratios):.2f} times {name}'s tokens a {what} "
                      f"({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} rounds)")  # fmt: skip
    return 1 if n_lost else 0


if __name__ == "__main__":
    sys.exit(main())
