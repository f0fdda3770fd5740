"""report.json and report.txt from the lines a check has left so far.

    report.py STEPS.jsonl FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def table(rows: list[dict], columns: list[str]) -> list[str]:
    cells = [columns] + [[str(row.get(c, "")) for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def main() -> None:
    lines = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines() if line.strip()]
    folder = Path(sys.argv[2])
    steps = [line for line in lines if "exit" in line]
    results = [line for line in lines if "bench" in line]
    (folder / "report.json").write_text(json.dumps({"steps": steps, "results": results}, indent=1) + "\n")
    names = {0: "ok", 77: "skipped", 124: "out of time"}
    shown = [{"step": s["step"], "result": names.get(s["exit"], "FAILED"), "seconds": s["seconds"]} for s in steps]
    text = table(shown, ["step", "result", "seconds"]) + [""]
    measured = ["bench", "shape", "tokens", "us", "GB_s", "of_copy", "TFLOPS", "same"]
    measured += ["pp_tps", "tg_tps", "kv_bytes", "peak_MiB_of_step"]
    text += table(results, measured)
    (folder / "report.txt").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
