#!/usr/bin/env python3
"""Conversations over a common document: how many tokens of their prompts a livekv.serve computes, beside how many there are.

    python tests/bench/serve_conversations.py --url http://127.0.0.1:8080 --text FILE

Each of --conversations asks --rounds questions, one after the other; its prompt is the document, then all questions and
answers so far. Tokens that several prompts begin with count once among the unique ones. --together: conversations under
way at a time. Counts are the server's own; nobody else may ask it meanwhile.
"""

from __future__ import annotations

import argparse
import json
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def post(args: argparse.Namespace, path: str, body: dict) -> dict:
    request = urllib.request.Request(args.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=args.timeout) as answer:
        return json.load(answer)


def metric(args: argparse.Namespace, name: str) -> float:
    with urllib.request.urlopen(f"{args.url}/metrics", timeout=args.timeout) as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"livekv_{name} ")))


def talk(args: argparse.Namespace, document: list[int], index: int, sentences: list[str]) -> tuple[list[list[int]], list[float]]:
    """The prompts, as tokens, and seconds that each answer took."""
    prompt, prompts, seconds = document, [], []
    for n_round in range(args.rounds):
        said = sentences[(index * args.rounds + n_round) % len(sentences)]
        question = f"\n\nWhat is meant by \"{said}\"?\n\n"
        prompt = prompt + post(args, "/tokenize", {"content": question, "add_special": False})["tokens"]
        prompts.append(prompt)
        start = time.perf_counter()
        body = {"prompt": prompt, "max_tokens": args.decode, "temperature": 0, "ignore_eos": True}
        answer = post(args, "/v1/completions", body)["choices"][0]["text"]
        seconds.append(time.perf_counter() - start)
        prompt = prompt + post(args, "/tokenize", {"content": answer, "add_special": False})["tokens"]
    return prompts, seconds


def n_unique(prompts: list[list[int]]) -> int:
    """Beginnings of prompts that differ."""
    total, before = 0, []
    for prompt in sorted(prompts):
        same = next((i for i, (a, b) in enumerate(zip(prompt, before)) if a != b), min(len(prompt), len(before)))
        total += len(prompt) - same
        before = prompt
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:8080")
    add("--text", type=Path, required=True, help="the document is its beginning, questions are about what follows")
    add("--document", type=int, default=3500, help="tokens (default: %(default)s)")
    add("--conversations", type=int, default=20, help="(default: %(default)s)")
    add("--rounds", type=int, default=3, help="(default: %(default)s)")
    add("--together", type=int, default=8, help="(default: %(default)s)")
    add("--decode", type=int, default=32, help="tokens of an answer (default: %(default)s)")
    add("--timeout", type=float, default=600, help="seconds (default: %(default)s)")
    args = parser.parse_args()
    text = args.text.read_text(encoding="utf-8")[: 40 * args.document]
    tokens = post(args, "/tokenize", {"content": text[: 8 * args.document]})["tokens"]
    if len(tokens) < args.document:
        parser.error(f"{args.text} has {len(tokens)} tokens, {args.document} are needed")
    sentences = [one.strip() for one in text[8 * args.document :].split(".") if 40 < len(one.strip()) < 160]
    before = {name: metric(args, name) for name in ("prompt_tokens_total", "cached_tokens_total")}
    start = time.perf_counter()
    with ThreadPoolExecutor(args.together) as pool:
        talks = list(pool.map(lambda i: talk(args, tokens[: args.document], i, sentences), range(args.conversations)))
    seconds = time.perf_counter() - start
    given, cached = (metric(args, name) - value for name, value in before.items())
    unique = n_unique([prompt for prompts, _ in talks for prompt in prompts])
    answers = sorted(one for _, times in talks for one in times)
    print(f"{len(answers)} prompts of {given:.0f} tokens, {unique} unique; computed {given - cached:.0f}, "
          f"{(given - cached) / unique:.3f} times the unique ones")  # fmt: skip
    print(f"{seconds:.1f} s in all; an answer took {answers[len(answers) // 2]:.2f} s at the median, {answers[-1]:.2f} s at most")


if __name__ == "__main__":
    main()
