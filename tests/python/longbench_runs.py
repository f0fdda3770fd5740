"""LongBench runs on three small tasks of a novel, for tests of what runs do."""

from __future__ import annotations

import json
from pathlib import Path

STORY = Path(__file__).resolve().parents[1] / "models" / "story.gguf"
TEXT = (Path(__file__).resolve().parents[1] / "data" / "war-and-peace-opening.txt").read_text()


def write_samples(folder: Path) -> Path:
    """Three tasks of three samples each in the benchmark's schema, from a novel."""
    folder.mkdir()
    for name, classes in (("trec", ["Person", "City"]), ("samsum", None), ("passage_count", None)):
        rows = [
            {
                "input": f"Question {i}?",
                "context": TEXT[i * 500 : i * 500 + 2500],
                "answers": ["the", "Person"] if classes is None else ["Person"],
                "length": 3000 + 3000 * i,
                "all_classes": classes,
                "_id": f"{name}-{i}",
            }
            for i in range(3)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines)
        (folder / f"{name}_e.jsonl").write_text(lines)
    return folder


def arguments(samples, out, *more, kv="f16,livekv:chunk-size=32", wanted="trec,passage_count", limit=2):
    return [
        "--model", str(STORY), "--data-dir", str(samples), "--out", str(out), "--kv", kv, "--tasks", wanted,
        "--limit", str(limit), "--n-ctx", "256", "--threads", "1", *map(str, more),
    ]  # fmt: skip


def predictions(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in (out / "predictions").rglob("*.jsonl")}


def answered(out):
    """What the model said, without what it took."""
    return {
        name: sorted((record["index"], record.get("pred"), record.get("response")) for record in map(json.loads, lines))
        for name, lines in ((name, content.splitlines()) for name, content in predictions(out).items())
    }


def n_answers(out):
    return sum(content.count(b"\n") for content in predictions(out).values()) if out.exists() else 0
