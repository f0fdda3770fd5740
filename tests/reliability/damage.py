#!/usr/bin/env python3
"""Damages saved caches and GGUF files in every way we could think of, and opens and uses them.

    python tests/reliability/damage.py --count 10000

Bits are flipped, the file is cut, its counts, lengths, types and values are set to extremes, stretches are exchanged,
inserted, removed or overwritten. A damaged file is refused with livekv.Error, in one printable line, or can be used:
whoever uses it gets numbers or livekv.Error. Half of the damaged caches get a checksum that is right again; the others
must all be refused. No case may end the process, take more than 10 seconds, or more memory than the file's size and
64 MiB. Cases are numbered and depend on the seed alone, so that `--first N --count 1` repeats one. Exit status 1 when
one went wrong; each of those is printed.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import os
import random
import signal
import struct
import sys
import tempfile
import unicodedata
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "convert"), str(ROOT / "tests" / "python"), str(ROOT)]

from python_eval.arguments import positive  # noqa: E402

MOST_SECONDS = 10
MOST_BYTES = 64 << 20  # beside the file's size
VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # by GGUF type
STRING, ARRAY = 8, 9


# --- where things are in a file ---


def fields(data: bytes) -> tuple[list[tuple[int, int]], int]:
    """(offset, bytes) of every number in a GGUF file's head, and where the head ends."""
    found = [(0, 4), (4, 4), (8, 8), (16, 8)]
    at = 24

    def number(n_bytes: int) -> int:
        nonlocal at
        found.append((at, n_bytes))
        at += n_bytes
        return int.from_bytes(data[at - n_bytes : at], "little")

    def text() -> None:
        nonlocal at
        n = number(8)
        at += n

    def value(kind: int) -> None:
        if kind == STRING:
            text()
        elif kind == ARRAY:
            each = number(4)
            for _ in range(number(8)):
                value(each)
        else:
            number(VALUE_BYTES[kind])

    n_tensors, n_keys = struct.unpack_from("<QQ", data, 8)
    for _ in range(n_keys):
        text()
        value(number(4))
    for _ in range(n_tensors):
        text()
        for _ in range(number(4)):
            number(8)  # a dimension
        number(4)  # its type
        number(8)  # where it is
    return found, at


def one_of_each_array(found: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The fields without the most of long runs of like ones: a vocabulary's tokens are not the only numbers."""
    kept: list[tuple[int, int]] = []
    for field in found:
        run = kept[-8:]
        like = [f for f in run if f[1] == field[1]]
        if len(like) < 8 or (field[0] * 2654435761) % 64 == 0:
            kept.append(field)
    return kept


# --- ways to damage one ---

EXTREMES = [0, 1, -1, 2, 7, 255, 1 << 15, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 62) + 1,
            (1 << 63) - 1, 1 << 63]  # fmt: skip


class Damage:
    """Ways to damage one file; each is a function of a random generator that gives the damaged bytes."""

    def __init__(self, whole: bytes) -> None:
        self.whole = whole
        found, self.head = fields(whole)
        self.fields = one_of_each_array(found)

    def place(self, rng: random.Random) -> int:
        return rng.randrange(self.head if rng.random() < 0.7 else len(self.whole))

    def stretch(self, rng: random.Random) -> tuple[int, int]:
        at = self.place(rng)
        return at, min(at + rng.choice([1, 4, 8, 16, 32, 64, 256, 4096, rng.randrange(1, 20000)]), len(self.whole))

    def flip(self, rng: random.Random) -> bytes:
        data = bytearray(self.whole)
        for _ in range(rng.choice([1, 1, 2, 8])):
            data[self.place(rng)] ^= 1 << rng.randrange(8)
        return bytes(data)

    def cut(self, rng: random.Random) -> bytes:
        ends = [self.place(rng), rng.choice(self.fields)[0], self.head, len(self.whole) - 1 - rng.randrange(100)]
        return self.whole[: rng.choice(ends)]

    def extreme(self, rng: random.Random) -> bytes:
        data = bytearray(self.whole)
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            at, n = rng.choice(self.fields)
            old = int.from_bytes(data[at : at + n], "little")
            new = rng.choice([*EXTREMES, old + 1, old - 1, 2 * old, old // 2, rng.getrandbits(64)])
            data[at : at + n] = (new % (1 << 8 * n)).to_bytes(n, "little")
        return bytes(data)

    def exchange(self, rng: random.Random) -> bytes:
        data = bytearray(self.whole)
        (a, end), b = self.stretch(rng), self.place(rng)
        n = min(end - a, len(data) - b, abs(a - b))
        data[a : a + n], data[b : b + n] = data[b : b + n], data[a : a + n]
        return bytes(data)

    def shift(self, rng: random.Random) -> bytes:
        at, end = self.stretch(rng)
        if rng.random() < 0.5:
            return self.whole[:at] + self.whole[end:]
        return self.whole[:at] + rng.choice([bytes(end - at), self.whole[at:end], rng.randbytes(end - at)]) + self.whole[at:]

    def overwrite(self, rng: random.Random) -> bytes:
        at, end = self.stretch(rng)
        n = end - at
        return self.whole[:at] + rng.choice([bytes(n), b"\xff" * n, rng.randbytes(n)]) + self.whole[end:]

    def __call__(self, rng: random.Random) -> bytes:
        ways = [self.flip, self.flip, self.cut, self.extreme, self.extreme, self.extreme, self.exchange, self.shift, self.overwrite]
        return rng.choice(ways)(rng)


# --- the checksum of a saved cache (engine/store/kv_file_names.h) ---

CHECKSUM_AT = 24 + 8 + len("livekv.checksum") + 4
MASK = (1 << 64) - 1
P1, P2, P3, P4, P5 = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)


def rotated(x: int, by: int) -> int:
    return (x << by | x >> (64 - by)) & MASK


def xxh64(data: bytes) -> int:
    lanes = [(P1 + P2) & MASK, P2, 0, -P1 & MASK]
    n_words = len(data) // 32 * 4
    words = struct.unpack_from(f"<{n_words}Q", data)
    for i in range(4):
        lane = lanes[i]
        for word in words[i::4]:
            lane = rotated((lane + word * P2) & MASK, 31) * P1 & MASK
        lanes[i] = lane
    if words:
        h = sum(rotated(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18))) & MASK
        for lane in lanes:
            h = ((h ^ rotated(lane * P2 & MASK, 31) * P1 & MASK) * P1 + P4) & MASK
    else:
        h = P5
    h = (h + len(data)) & MASK
    at = 8 * n_words
    for at in range(8 * n_words, len(data) - 7, 8):
        word = int.from_bytes(data[at : at + 8], "little")
        h = (rotated(h ^ rotated(word * P2 & MASK, 31) * P1 & MASK, 27) * P1 + P4) & MASK
    at = len(data) // 8 * 8
    if len(data) - at >= 4:
        h = (rotated(h ^ int.from_bytes(data[at : at + 4], "little") * P1 & MASK, 23) * P2 + P3) & MASK
        at += 4
    for byte in data[at:]:
        h = rotated(h ^ byte * P5 & MASK, 11) * P1 & MASK
    h = (h ^ h >> 33) * P2 & MASK
    h = (h ^ h >> 29) * P3 & MASK
    return h ^ h >> 32


def with_checksum(data: bytes) -> bytes:
    if len(data) < CHECKSUM_AT + 8:
        return data
    before, after = data[:CHECKSUM_AT], data[CHECKSUM_AT + 8 :]
    return before + xxh64(before + bytes(8) + after).to_bytes(8, "little") + after


# --- one case ---

Case = Callable[[random.Random], tuple[bytes, bool]]  # the damaged bytes, and whether they must be refused


def model_cases(folder: Path) -> list[Case]:
    import convert_hf
    import tiny_models

    wholes = []
    for name, kind in (("gqa_hd64", "f16"), ("tied", "f32"), ("llama3_rope", "q8_0"), ("biased", "f16")):
        path = folder / f"{name}.gguf"
        convert_hf.convert(tiny_models.make(folder / name, tiny_models.SHAPES[name]), path, kind)
        wholes.append(path.read_bytes())
    return [partial(damaged_model, Damage(whole)) for whole in wholes]


def damaged_model(damage: Damage, rng: random.Random) -> tuple[bytes, bool]:
    return damage(rng), False


def use_model(livekv, path: Path) -> None:
    model = livekv.Model(path, n_threads=1)
    tokens = model.tokenize("It was a bright cold day in the park.")
    model.detokenize(tokens)
    use_session(model.session(128, kv=livekv.KVOptions(chunk_size=32)), tokens)


def use_session(session, tokens: list[int]) -> None:
    import numpy as np

    assert np.isfinite(session.eval(tokens)).all(), "logits that are not numbers"
    for _ in session.generate(None, max_tokens=3, temperature=0.0):
        pass


def cache_cases(livekv, model) -> list[Case]:
    options = [livekv.KVOptions(chunk_size=32, warmup_chunks=1), livekv.KVOptions.preset("reference", chunk_size=32),
               livekv.KVOptions(chunk_size=32, bypass_layers=1, bypass_type="f16", seal_decode=False, rotate="none")]  # fmt: skip
    cases: list[Case] = []
    for kv in options:
        session = model.session(256, kv=kv)
        session.prefill([1 + i * 37 % 300 for i in range(150)])
        for _ in session.generate(None, max_tokens=20, temperature=0.0):
            pass
        with tempfile.NamedTemporaryFile(suffix=".kv") as file:
            session.save(file.name)
            whole = Path(file.name).read_bytes()
        assert with_checksum(whole) == whole, "this is not the checksum that files have"
        cases.append(partial(damaged_cache, Damage(whole)))
    return cases


def damaged_cache(damage: Damage, rng: random.Random) -> tuple[bytes, bool]:
    damaged = damage(rng)
    renewed = rng.random() < 0.5
    return (with_checksum(damaged), False) if renewed else (damaged, damaged != damage.whole)


def use_cache(model, path: Path) -> None:
    session = model.session(256)
    session.load(path)
    if session.n_tokens < 200:
        use_session(session, [5, 6, 7] * 15)


def is_line(message: str) -> bool:
    return 0 < len(message) <= 2000 and not any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in message)


def status_bytes(name: str) -> int:
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith(name + ":"))


def try_case(livekv, use: Callable[[Path], None], path: Path, damaged: bytes, must_refuse: bool) -> str:
    """What came of it; "wrong: ..." when it should not have."""
    path.write_bytes(damaged)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = status_bytes("VmRSS")
    signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)  # whose signal ends the process
    try:
        use(path)
        outcome = "wrong: accepted" if must_refuse else "used"
    except livekv.Error as problem:
        outcome = "refused" if is_line(str(problem)) else f"wrong: not one line: {problem!r}"
    except Exception as problem:
        outcome = f"wrong: {type(problem).__name__}: {problem}".replace("\n", " ")
    signal.setitimer(signal.ITIMER_REAL, 0)
    taken = status_bytes("VmHWM") - before
    if taken > len(damaged) + MOST_BYTES:
        return f"wrong: {taken >> 20} MiB were taken for {len(damaged)} bytes; {outcome}"
    return outcome


def run_cases(livekv, use: Callable[[Path], None], cases: list[Case], name: str, seed: int, numbers: range, folder: Path) -> int:
    """In processes of their own, each until it dies. How many went wrong."""
    n_outcomes: collections.Counter[str] = collections.Counter()
    n_wrong = 0

    def note(i: int, outcome: str) -> None:
        nonlocal n_wrong
        n_outcomes[outcome.split(":")[0]] += 1
        if outcome.startswith("wrong"):
            n_wrong += 1
            print(f"{name}, case {i}: {outcome[:500]}", flush=True)

    said = folder / "said"
    done = numbers.start
    while done < numbers.stop:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            for i in range(done, numbers.stop):
                rng = random.Random(f"{seed} {name} {i}")
                outcome = try_case(livekv, use, folder / "damaged", *rng.choice(cases)(rng))
                os.write(writer, f"{outcome}\n".encode())
            os._exit(0)
        os.close(writer)
        with open(reader, "rb") as outcomes:
            for line in outcomes:
                note(done, line.decode().rstrip("\n"))
                done += 1
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status != 0 and done < numbers.stop:
            why = f"more than {MOST_SECONDS} s" if status == -signal.SIGALRM else f"ended with {status}"
            note(done, f"wrong: {why}: {said.read_text(errors='replace')[-300:]!r}")
            done += 1
        elif said.read_text(errors="replace"):
            note(done, f"wrong: printed {said.read_text(errors='replace')[-300:]!r}")
    print(f"{name}: {len(numbers)} damaged files; " + ", ".join(f"{n} {what}" for what, n in sorted(n_outcomes.items())), flush=True)
    return n_wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=positive, default=200, help="damaged files of each kind (200)")
    parser.add_argument("--first", type=int, default=0, help="number of the first (0)")
    parser.add_argument("--seed", type=int, default=1, help="what the damages depend on (1)")
    parser.add_argument("--only", choices=("caches", "models"), help="one kind alone")
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="the build folder (build)")
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.build / "python"))
    livekv = importlib.import_module("livekv")
    numbers = range(arguments.first, arguments.first + arguments.count)
    n_wrong = 0
    with tempfile.TemporaryDirectory(prefix="livekv-damage-") as name:
        folder = Path(name)
        models = model_cases(folder)
        model = livekv.Model(folder / "gqa_hd64.gguf", n_threads=1)
        kinds = {
            "caches": (lambda path: use_cache(model, path), cache_cases(livekv, model)),
            "models": (lambda path: use_model(livekv, path), models),
        }
        for kind, (use, cases) in kinds.items():
            if arguments.only in (None, kind):
                n_wrong += run_cases(livekv, use, cases, kind, arguments.seed, numbers, folder)
    return 1 if n_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
