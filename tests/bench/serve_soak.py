#!/usr/bin/env python3
"""A server under a mixed load for a long time: its memory, minute by minute, against its budget.

    PYTHONPATH=build/python python tests/bench/serve_soak.py --model MODEL.gguf --text FILE --minutes 30 --clients 12 \\
        --livekv="-c 4096 --parallel 8 --memory 384M --queue 4"

Clients ask at random: about documents that several ask about, for texts of their own, in turns of a conversation, for two choices
at once, in streams that they leave, and for what is refused. Every answer must be what was asked for or a refusal in the API's form;
what else comes is counted as lost. The table has a line a minute: requests so far by their outcome, the server's resident memory, and
from /metrics the bytes of caches under way, of kept sequences and of chunks, whose sum must stay within --memory.
"""

from __future__ import annotations

import argparse
import collections
import http.client
import json
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent))
from serve_load import memory
from serve_pair import free_port, serving

CACHES = ("livekv_kv_bytes", "livekv_kept_bytes", "livekv_prefix_bytes")


class Client(threading.Thread):
    def __init__(self, url: str, text: str, seed: int, outcomes: collections.Counter[str], end: float) -> None:
        super().__init__(daemon=True)
        self.address, self.text, self.draw, self.outcomes, self.end = urlsplit(url), text, random.Random(seed), outcomes, end
        self.turns = ""

    def run(self) -> None:
        while time.monotonic() < self.end:
            kind = self.draw.choice(["shared", "shared", "own", "own", "turn", "turn", "two", "leaves", "wrong"])
            try:
                self.outcomes[getattr(self, kind)()] += 1
            except (OSError, ValueError, KeyError, http.client.HTTPException) as problem:
                what = f"lost: {kind}: {type(problem).__name__} {str(problem)[:200]}"
                self.outcomes[what] += 1
                print(what, file=sys.stderr, flush=True)

    def part(self, most: int) -> str:
        """Of the text, so many characters at most."""
        n = self.draw.randrange(20, most)
        at = self.draw.randrange(len(self.text) - n)
        return self.text[at : at + n]

    def post(self, path: str, body: dict[str, Any], leave_after: int | None = None) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection(self.address.hostname, self.address.port, timeout=600)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            if leave_after is not None and answer.status == 200:
                for _ in range(leave_after):
                    answer.readline()
                return 200, {}
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def said(self, n_choices: int, path: str, body: dict[str, Any]) -> str:
        status, answer = self.post(path, {"max_tokens": self.draw.randrange(1, 64), **body})
        if status in (429, 503, 504) and answer["error"]["message"]:
            time.sleep(self.draw.random())
            return str(status)
        if status != 200 or len(answer["choices"]) != n_choices:
            raise ValueError(f"{status} {answer}")
        return "answered"

    def shared(self) -> str:
        document = self.text[: 4000 * self.draw.randrange(1, 3)] if self.draw.random() < 0.5 else self.text[9000:12000]
        return self.said(1, "/v1/completions", {"prompt": document + self.part(200)})

    def own(self) -> str:
        return self.said(1, "/v1/completions", {"prompt": self.part(9000)})

    def two(self) -> str:
        return self.said(2, "/v1/completions", {"prompt": self.part(2000), "n": 2})

    def turn(self) -> str:
        if len(self.turns) > 4000:
            self.turns = ""
        self.turns += f"\n\nYou: {self.part(600)}\n\nI: "
        outcome = self.said(1, "/v1/completions", {"prompt": self.turns})
        self.turns += "So it is."
        return outcome

    def leaves(self) -> str:
        body = {"prompt": self.part(4000), "max_tokens": 200, "stream": True}
        status, _ = self.post("/v1/completions", body, leave_after=self.draw.randrange(12))
        return "left" if status == 200 else str(status)

    def wrong(self) -> str:
        body = self.draw.choice([{"prompt": "x" * 300_000}, {"prompt": "x", "n": 99}, {"prompt": "x", "top_p": 7}])
        status, _ = self.post("/v1/completions", body)
        if status not in (400, 429, 503, 504):
            raise ValueError(f"{status} for what is wrong")
        return "refused"


def metrics(url: str) -> dict[str, float]:
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=600)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return {name: float(value) for name, value in (line.split() for line in lines if line.startswith("livekv_") and "{" not in line)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--livekv", default="-c 4096 --parallel 8 --memory 384M --queue 4", metavar="OPTIONS")
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--logs", type=Path, default=Path("."), help="folder for what the server says")
    args = parser.parse_args()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "livekv.serve", "-m", str(args.model), "--port", str(port), *args.livekv.split()]
    text, outcomes = args.text.read_text(encoding="utf-8"), collections.Counter[str]()
    print("| minute | answered | left | refused | 429, 503, 504 | lost | tokens computed | generated | resident MiB | caches, MiB |")
    print("|---:" * 10 + "|")
    with serving(command, url, args.logs / "soak.log") as pid:
        start = time.monotonic()
        clients = [Client(url, text, args.seed + i, outcomes, start + 60 * args.minutes) for i in range(args.clients)]
        for one in clients:
            one.start()
        while any(one.is_alive() for one in clients):
            left = start + 60 * args.minutes - time.monotonic()
            if left > 0:
                time.sleep(min(60, left))
            else:
                for one in clients:
                    one.join()
            seen, count = metrics(url), dict(outcomes)
            lost = sum(n for what, n in count.items() if what.startswith("lost"))
            print(f"| {(time.monotonic() - start) / 60:.1f} | {count.get('answered', 0)} | {count.get('left', 0)} | {count.get('refused', 0)} |"
                  f" {sum(count.get(status, 0) for status in ('429', '503', '504'))} | {lost} |"
                  f" {seen['livekv_prompt_tokens_total'] - seen['livekv_cached_tokens_total']:.0f} | {seen['livekv_generated_tokens_total']:.0f} |"
                  f" {memory(pid)} | {sum(seen[name] for name in CACHES) / 2**20:.0f} |", flush=True)  # fmt: skip
    return any(what.startswith("lost") for what in outcomes)


if __name__ == "__main__":
    sys.exit(main())
