#!/usr/bin/env python3
"""Kills writers of files at random moments: livekv-cli while it saves a cache, the converter while it writes a model.

    python tests/reliability/kills.py --count 1000

After every kill the target is absent (where it was), or the old file, or the whole new one, and the only file beside it
is the temporary one of the process that was killed. One run in four is then repeated in peace: it must leave the new
file and nothing else. Half of the kills come at any time of a run, half as soon as the temporary file is there or a
moment later, where a writer that is not careful would be caught. Exit status 1 when anything was otherwise.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "python"), str(ROOT / "convert"), str(ROOT)]

import tiny_models  # noqa: E402
from python_eval.arguments import positive  # noqa: E402


def temporary_of(target: Path, process: subprocess.Popen) -> str:
    return f"{target.name}.tmp-{process.pid}"


@dataclass
class Writer:
    """A command that writes `target`, and the bytes it leaves there."""

    name: str
    command: list[str]
    target: Path
    seconds: float = 0.0  # of a run in peace
    writing: float = 0.0  # of these, with a temporary file
    new: bytes = b""
    found: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("absent", "old", "new", "torn by then"), 0))

    def start(self) -> subprocess.Popen:
        return subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def neighbours(self) -> list[str]:
        return [name for name in os.listdir(self.target.parent) if name != self.target.name]

    def wait_for_temporary(self, process: subprocess.Popen) -> None:
        """Returns when one is there that this process made, or when the process has ended."""
        while process.poll() is None and temporary_of(self.target, process) not in self.neighbours():
            time.sleep(0.0002)

    def measure(self) -> None:
        start = time.monotonic()
        process = self.start()
        self.wait_for_temporary(process)
        temporary = time.monotonic()
        errors = process.communicate()[1]
        if process.returncode != 0:
            raise SystemExit(f"{self.name} fails by itself: {errors.decode()}")
        self.seconds = time.monotonic() - start
        self.writing = time.monotonic() - temporary
        self.new = self.target.read_bytes()


def kill_once(writer: Writer, rng: random.Random, old: bytes | None) -> list[str]:
    """One kill over a target of these bytes, or none. What was wrong afterwards."""
    if old is None:
        writer.target.unlink(missing_ok=True)
    else:
        writer.target.write_bytes(old)
    process = writer.start()
    if rng.random() < 0.5:
        writer.wait_for_temporary(process)
        time.sleep(rng.random() * writer.writing * rng.choice([0.0, 0.1, 1.0]))
    else:
        time.sleep(rng.random() * writer.seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    problems = []
    now = writer.target.read_bytes() if writer.target.exists() else None
    if now == writer.new:
        writer.found["new"] += 1
    elif now == old:
        writer.found["absent" if old is None else "old"] += 1
    else:
        problems.append(f"the target is neither the old file nor the new one, but {'gone' if now is None else len(now)}")
    left = writer.neighbours()
    writer.found["torn by then"] += len(left) > 0
    if left not in ([], [temporary_of(writer.target, process)]):
        problems.append(f"beside the target lie {left}")

    if rng.random() < 0.25:
        done = subprocess.run(writer.command, capture_output=True)
        if done.returncode != 0 or writer.target.read_bytes() != writer.new or writer.neighbours():
            problems.append(f"the next run: status {done.returncode}, beside the target {writer.neighbours()}, {done.stderr!r}")
    else:
        for name in left:
            os.unlink(writer.target.parent / name)
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=positive, default=20, help="kills of each writer (20)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments (1)")
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="the build folder (build)")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    n_wrong = 0
    with tempfile.TemporaryDirectory(prefix="livekv-kills-") as folder:
        for name in ("cache", "model"):
            (Path(folder) / name).mkdir()
        model = tiny_models.make(Path(folder) / "hf", tiny_models.Shape("kills", n_layer=6, n_embd=256, n_ff=512))
        writers = [
            Writer("a cache by livekv-cli", [str(arguments.build / "bin/livekv-cli"), "-m", str(ROOT / "tests/models/story.gguf"),
                    "-f", str(ROOT / "tests/data/war-and-peace-opening.txt"), "-n", "0", "-t", "1",
                    "--kv-save", f"{folder}/cache/target.kv"], Path(folder) / "cache/target.kv"),
            Writer("a model by convert_hf.py", [sys.executable, str(ROOT / "convert/convert_hf.py"), str(model), f"{folder}/model/target.gguf",
                    "--type", "f16"], Path(folder) / "model/target.gguf"),
        ]  # fmt: skip
        for writer in writers:
            writer.measure()
            old = bytes(rng.randrange(256) for _ in range(1000)) * 50
            for i in range(arguments.count):
                problems = kill_once(writer, rng, old if i % 2 else None)
                for problem in problems:
                    print(f"{writer.name}, kill {i}: {problem}", flush=True)
                n_wrong += len(problems) > 0
            found = ", ".join(f"{what} {n}" for what, n in writer.found.items())
            print(f"{writer.name}: {arguments.count} kills; found {found}", flush=True)
    return 1 if n_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
