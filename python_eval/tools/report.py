"""Answers -> rates by cache, length and depth, and paired differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..paired import paired
from ..run_folder import Record
from ..tables import Cell, Row


def rate_rows(records: Sequence[Record]) -> list[Row]:
    """A row for each cache and length: shares of right calls, functions and arguments; calls less the first cache's."""
    rows: list[Row] = []
    caches = list(dict.fromkeys(record["kv"] for record in records))
    lengths = sorted({record["length"] for record in records})
    for kv in caches:
        for length in [*lengths, None] if len(lengths) > 1 else lengths:
            mine = {_key(r): r for r in records if r["kv"] == kv and length in (r["length"], None)}
            base = {_key(r): r for r in records if r["kv"] == caches[0] and length in (r["length"], None)}
            keys = [key for key in base if key in mine]
            if not keys:
                continue
            row: dict[str, Cell] = {
                "cache": kv,
                "length": "all" if length is None else str(length),
                "requests": len(mine),
            }
            for name in ("call", "function", "arguments"):
                row[name] = float(np.mean([record[name] for record in mine.values()]))
            if kv != caches[0]:
                before, after = ([group[key]["call"] for key in keys] for group in (base, mine))
                row[f"call - {caches[0]}"] = paired(before, after, [key[:2] for key in keys])
            rows.append(row)
    return rows


def depth_rows(records: Sequence[Record]) -> list[Row]:
    """Share of right calls by depth, a row for each cache and length."""
    rows: list[Row] = []
    for kv in dict.fromkeys(record["kv"] for record in records):
        for length in sorted({record["length"] for record in records if record["kv"] == kv}):
            mine = [r for r in records if r["kv"] == kv and r["length"] == length]
            depths = sorted({record["depth"] for record in mine})
            shares = {f"{d:g}": float(np.mean([r["call"] for r in mine if r["depth"] == d])) for d in depths}
            rows.append({"cache": kv, "length": str(length), **shares})
    return rows


def _key(record: Record) -> tuple[int, int, float]:
    return record["length"], record["context"], record["depth"]
