#!/usr/bin/env python3
"""Many clients of a server at a time: tokens a second, seconds to the first token and between tokens, lost requests.

    python tests/bench/serve_load.py --url http://127.0.0.1:8080 --text FILE --clients 1,4,16,64 --prompts 500,4000

Any server with OpenAI's /v1/completions will do, such as livekv.serve and llama-server, so that two can be compared: same
model, same texts, same clients (serve_pair.py). Of one that tells no usage in a stream, pieces count as tokens. Every client
asks one request after another, each for its own part of the text, of a length drawn from --prompts (in tokens, estimated as
--characters each; the table has the server's counts), until --requests were asked or --seconds are over. --shared N: all
prompts begin with the same N tokens. --pid: of the server, for its memory.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import statistics
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit


@dataclass
class Seen:
    """What all clients saw, under the lock."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    first: list[float] = field(default_factory=list)  # seconds to the first piece
    gaps: list[float] = field(default_factory=list)  # seconds from a piece to the next
    lost: dict[str, int] = field(default_factory=dict)  # by what was said
    n_done: int = 0
    n_prompt: int = 0
    n_cached: int = 0
    n_generated: int = 0


def ask(args: argparse.Namespace, prompt: str, seen: Seen) -> None:
    url = urlsplit(args.url)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=args.timeout)
    body = {"prompt": prompt, "max_tokens": args.decode, "temperature": 0, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True}}  # fmt: skip
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {args.api_key}"}
    start = last = time.perf_counter()
    times, usage = [], None
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status} {answer.read(200).decode(errors='replace')}")
    for line in answer:
        if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
            continue
        event = json.loads(line[6:])
        if "error" in event:
            raise RuntimeError(str(event["error"]))
        usage = event.get("usage") or usage
        if event.get("choices"):
            now = time.perf_counter()
            times.append(now - last)
            last = now
    connection.close()
    if not times:
        raise RuntimeError(f"the stream ended after {time.perf_counter() - start:.1f} s without an answer")
    usage = usage or {"prompt_tokens": 0, "completion_tokens": len(times)}  # of a server that tells none in a stream
    with seen.lock:
        seen.first.append(times[0])
        seen.gaps += times[1:]
        seen.n_done += 1
        seen.n_prompt += usage["prompt_tokens"]
        seen.n_cached += (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        seen.n_generated += usage["completion_tokens"]


def load(args: argparse.Namespace, text: str, n_clients: int) -> tuple[Seen, float]:
    # Prompts of their own for each number of clients: none is known from the round before.
    seen, draw, end = Seen(), random.Random(f"{args.seed} {n_clients}"), time.monotonic() + args.seconds
    size = args.characters
    lengths = [int(n) for n in args.prompts.split(",")]
    prompts = []
    for _ in range(args.requests):
        n = draw.choice(lengths)
        at = draw.randrange(len(text) - int(size * n))
        prompts.append(text[: int(size * args.shared)] + text[at : at + int(size * max(n - args.shared, 1))])

    def client() -> None:
        while time.monotonic() < end:
            with seen.lock:
                if not prompts:
                    return
                prompt = prompts.pop()
            try:
                ask(args, prompt, seen)
            except (OSError, RuntimeError, ValueError, http.client.HTTPException) as problem:
                with seen.lock:
                    key = str(problem)[:120] or type(problem).__name__
                    seen.lost[key] = seen.lost.get(key, 0) + 1

    start = time.perf_counter()
    clients = [threading.Thread(target=client) for _ in range(n_clients)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    return seen, time.perf_counter() - start


def memory(pid: int | None) -> str:
    if pid is None:
        return ""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(f"{int(line.split()[1]) / 1024:.0f}" for line in status if line.startswith("VmRSS:"))


def cut(values: list[float], share: float) -> str:
    return f"{1000 * sorted(values)[min(len(values) - 1, int(share * len(values)))]:.0f}" if values else "-"


HEAD = ("| clients | requests | lost | prompt tokens | known | generated | tokens/s | prompt tokens/s |"
        " first token ms, median, 99 % | next ms, median, 99 % | MiB |\n" + "|---:" * 11 + "|")  # fmt: skip


def row(n_clients: int, seen: Seen, seconds: float, pid: int | None) -> str:
    return (f"| {n_clients} | {seen.n_done} | {sum(seen.lost.values())} | {seen.n_prompt} | {seen.n_cached} | {seen.n_generated} |"
            f" {seen.n_generated / seconds:.1f} | {seen.n_prompt / seconds:.0f} |"
            f" {cut(seen.first, 0.5)}, {cut(seen.first, 0.99)} | {cut(seen.gaps, 0.5)}, {cut(seen.gaps, 0.99)} |"
            f" {memory(pid)} |")  # fmt: skip


def add_load(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--clients", default="1,4,16,64")
    parser.add_argument("--prompts", default="500,1000,2000,4000", help="tokens")
    parser.add_argument("--shared", type=int, default=0, help="tokens that all prompts begin with")
    parser.add_argument("--characters", type=float, default=4.0, help="a token, about")
    parser.add_argument("--decode", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--requests", type=int, default=64, help="for each number of clients")
    parser.add_argument("--seconds", type=float, default=600, help="for each; requests under way are waited for")
    parser.add_argument("--timeout", type=float, default=600, help="of a request, seconds without a byte")
    parser.add_argument("--seed", type=int, default=1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    add_load(parser)
    parser.add_argument("--pid", type=int, help="of the server")
    args = parser.parse_args()
    text = args.text.read_text(encoding="utf-8")
    longest = int(args.characters * max(int(n) for n in args.prompts.split(",")))
    if len(text) <= longest:
        sys.exit(f"serve_load: {args.text} has {len(text)} characters; prompts of its own need more than {longest}")
    print(HEAD)
    lost: dict[str, int] = {}
    for n in map(int, args.clients.split(",")):
        seen, seconds = load(args, text, n)
        lost |= seen.lost
        print(row(n, seen, seconds, args.pid), flush=True)
        if seen.gaps:
            print(f"  {n} clients: {statistics.fmean(seen.gaps) * 1000:.1f} ms between pieces on average", file=sys.stderr)
    for what, count in lost.items():
        print(f"  lost {count}: {what}", file=sys.stderr)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
