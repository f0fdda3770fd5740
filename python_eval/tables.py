"""The same table as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .files import write_text
from .paired import Paired

Cell = str | int | float | bool | Paired | None
Row = Mapping[str, Cell]


def write_tables(rows: Sequence[Row], folder: Path, stem: str, notes: Sequence[str] = ()) -> None:
    """Writes `stem`.json, .csv and .md into `folder`, each whole or not at all.

    Columns are the rows' keys in the order they first appear; a cell that a row lacks is empty (null). `notes` are
    lines that belong to the table in every form: JSON holds {"notes": [...], "rows": [...]}, CSV begins with `# `
    lines. A `Paired` cell is an object in JSON, in CSV two columns (`name`, `name_se`).
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    plain = [{name: _plain(row.get(name)) for name in columns} for row in rows]
    content = {"notes": list(notes), "rows": plain}
    write_text(folder / f"{stem}.json", json.dumps(content, ensure_ascii=False, allow_nan=False, indent=2) + "\n")
    write_text(folder / f"{stem}.csv", _csv(rows, columns, notes))
    write_text(folder / f"{stem}.md", markdown(rows, notes))


def markdown(rows: Sequence[Row], notes: Sequence[str] = ()) -> str:
    """A Markdown table, numbers to the right, four significant digits, `-` for what there is not; `notes` as paragraphs
    above it.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    numeric = {
        name: all(isinstance(row.get(name), (int, float, Paired, type(None))) for row in rows) for name in columns
    }
    lines = [
        *(f"{note}\n" for note in notes),
        _line(columns),
        _line("---:" if numeric[name] else "---" for name in columns),
    ]
    lines += [_line(_text(row.get(name)) for name in columns) for row in rows]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _text(cell: Cell) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.0f}" if abs(cell) >= 1000 else f"{cell:.4g}"
    return str(cell).replace("|", "\\|").replace("\n", " ")


def _plain(cell: Cell) -> object:
    return dataclasses.asdict(cell) if isinstance(cell, Paired) else cell


def _csv(rows: Sequence[Row], columns: Sequence[str], notes: Sequence[str]) -> str:
    with_error = {name for name in columns if any(isinstance(row.get(name), Paired) for row in rows)}
    out = io.StringIO()
    out.writelines(f"# {note}\n" for note in notes)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(part for name in columns for part in ((name, f"{name}_se") if name in with_error else (name,)))
    for row in rows:
        cells: list[object] = []
        for name in columns:
            cell = row.get(name)
            if isinstance(cell, Paired):
                cells += [cell.mean, cell.se]
            else:
                cells += [cell, None] if name in with_error else [cell]
        writer.writerow(cells)
    return out.getvalue()
